"""Seconds that the known-cost sampler takes for one question, by the number of trials that it has seen.

    python -m experiments.benchmarks.asking --latency gpu_latency.csv:titan_rtx_256_ms

Replayed cells, whose costs are read off a table, and the spaces "micro" and "full", whose costs the latency predictor
gives; in memory: the database's part is in `experiments.benchmarks.overhead`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from dataclasses import replace

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from nas.replay.nasbench201 import KNOWN_BY_DEFAULT, CellSpace, load_table
from nas.replay.published_study import published_measurement, sampler_of
from nas.samplers import make_sampler
from nas.samplers.cost_model import SpaceCostModel
from nas.study.config import DistillConfig, SearchConfig
from nas.study.records import Measurement, Objective, RungResult, TrialRecord
from nas.study.records import TrialState as State
from search_space import SPACES

REPEATS = 5
PX = {"micro": 64, "full": 224}
OBJECTIVES = (Objective("score", "", "", 0.0), Objective("throughput", "", "", 0.125, log=True))


def asked(sampler, space, records) -> list[float]:
    """Seconds of each question after these records."""
    study = optuna.create_study(directions=["maximize", "maximize"], sampler=sampler)
    distributions = {name: CategoricalDistribution(choices) for name, choices in space.choices().items()}
    study.add_trials(
        [
            create_trial(
                state=TrialState.COMPLETE,
                values=[r.rungs[-1].score, math.log2(r.measurement.ratio)],
                params=space.encode(space.parse(r.spec)),
                distributions=distributions,
                user_attrs={"record": r.to_dict()},
            )
            for r in records
        ]
    )
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        study.ask(distributions)
        seconds.append(time.perf_counter() - began)
    return seconds


def record(number: int, spec, measurement: Measurement, score: float) -> TrialRecord:
    rung = RungResult(0, 1, score, {}, {}, {}, 0.0)
    known = {"measurement": measurement, "rungs": (rung,)}
    return TrialRecord(number, spec.arch_id, spec.to_dict(), State.COMPLETE, **known)


def of_cells(latency: str, count: int) -> list[float]:
    table, space = load_table("cifar10", latency), CellSpace()
    places = random.Random(0).sample(range(len(table.cells)), count)
    accuracy = [float(table.accuracy[i]) for i in places]
    records = [
        record(n, table.cells[i], published_measurement(table, i), a)
        for n, (i, a) in enumerate(zip(places, accuracy, strict=True))
    ]
    return asked(sampler_of("known-cost", table, 0, KNOWN_BY_DEFAULT, None), space, records)


def of_nets(name: str, count: int) -> list[float]:
    """Records whose throughput and score go by the work of the net."""
    space, rng = SPACES[name], random.Random(0)
    config = SearchConfig(space=name, distill=DistillConfig(image_px=PX[name], rung_steps=(1,)))
    specs = {spec.arch_id: spec for spec in (space.sample(rng) for _ in range(2 * count))}
    chosen = list(specs.values())[:count]
    costs = SpaceCostModel(space, config).costs([space.encode(spec) for spec in chosen], [])
    made = []
    for number, (spec, cost) in enumerate(zip(chosen, costs, strict=True)):
        ratio = 2.0**cost * math.exp(rng.gauss(0, 0.05))
        measurement = Measurement(
            device="", arm="", batch=16, resolution=64, throughput_img_s=ratio, throughput_low_img_s=ratio,
            throughput_high_img_s=ratio, ratio=ratio, ratio_low=ratio, ratio_high=ratio, reference="",
            reference_img_s=1.0, latency_ms=1.0, peak_memory_mib=None, samples=1, seconds=0.0, verdict="ok",
        )  # fmt: skip
        made.append(record(number, spec, measurement, 0.3 - 0.05 * cost + rng.gauss(0, 0.02)))
    return asked(make_sampler(replace(config, sampler="known-cost"), space, OBJECTIVES), space, made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", required=True, metavar="FILE.csv:COLUMN")
    parser.add_argument("--trials", type=int, nargs="+", default=[50, 200, 1000, 2000])
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for count in arguments.trials:
        for what in ("cells", *PX):
            seconds = of_cells(arguments.latency, count) if what == "cells" else of_nets(what, count)
            told = {"space": what, "trials": count, "first_s": seconds[0], "median_s": statistics.median(seconds)}
            print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in told.items()}), flush=True)


if __name__ == "__main__":
    main()
