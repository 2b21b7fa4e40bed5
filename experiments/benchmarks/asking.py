"""Measure the CPU time of the known-cost sampler's proposals, by the number of trials in its history.

    python -m experiments.benchmarks.asking --latency gpu_latency.csv:titan_rtx_256_ms

Covers replayed cells, whose costs come from a table, and all search spaces, whose costs come from the latency
predictor. The study is in memory: `experiments.benchmarks.overhead` times the database.
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

from nas.replay.arguments import DEFAULT_SOURCES
from nas.replay.nasbench201 import load_nasbench201
from nas.replay.published_study import published_measurement, replay_sampler
from nas.samplers import make_sampler
from nas.samplers.cost_model import SpaceCostModel
from nas.study.config import DistillConfig, SearchConfig
from nas.study.records import Measurement, Objective, RungResult, TrialRecord
from nas.study.records import TrialState as State
from search_space import SPACES

REPEATS = 5
OBJECTIVES = (Objective("score", "", "", 0.0), Objective("throughput", "", "", 0.125, log=True))


def proposal_seconds(sampler, space, records) -> list[float]:
    """Return the CPU seconds of each proposal after these records: on an idle machine it takes as long."""
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
        began = time.process_time()
        study.ask(distributions)
        seconds.append(time.process_time() - began)
    return seconds


def record(number: int, spec, measurement: Measurement, score: float) -> TrialRecord:
    """Return a complete trial."""
    rung = RungResult(0, 1, score, {}, {}, {}, 0.0)
    return TrialRecord(number, spec.arch_id, spec.to_dict(), State.COMPLETE, measurement=measurement, rungs=(rung,))


def for_cells(latency: str, count: int) -> list[float]:
    """Return the CPU seconds of proposals after `count` replayed cells."""
    table = load_nasbench201("cifar10", latency)
    places = random.Random(0).sample(range(len(table.architectures)), count)
    accuracy = [float(table.accuracy[i]) for i in places]
    records = [
        record(n, table.architectures[i], published_measurement(table, i), a)
        for n, (i, a) in enumerate(zip(places, accuracy, strict=True))
    ]
    sampler = replay_sampler("known-cost", table, 0, DEFAULT_SOURCES)
    return proposal_seconds(sampler, table.space, records)


def for_space(name: str, count: int) -> list[float]:
    """Return the CPU seconds of proposals after `count` records with throughput and score by predicted cost."""
    space, rng = SPACES[name], random.Random(0)
    config = SearchConfig(space=name, distill=DistillConfig(img_size=SPACES[name].image_px, rung_steps=(1,)))
    specs = {spec.arch_id: spec for spec in (space.sample(rng) for _ in range(2 * count))}
    chosen = list(specs.values())[:count]
    costs = SpaceCostModel(space, config).costs([space.encode(spec) for spec in chosen], [])
    records = []
    for number, (spec, cost) in enumerate(zip(chosen, costs, strict=True)):
        ratio = 2.0**cost * math.exp(rng.gauss(0, 0.05))
        measurement = Measurement(
            device="", arm="", batch=16, resolution=64, throughput_img_s=ratio, throughput_low_img_s=ratio,
            throughput_high_img_s=ratio, ratio=ratio, ratio_low=ratio, ratio_high=ratio, reference="",
            reference_img_s=1.0, latency_ms=1.0, peak_memory_mib=None, samples=1, seconds=0.0, verdict="ok",
        )  # fmt: skip
        records.append(record(number, spec, measurement, 0.3 - 0.05 * cost + rng.gauss(0, 0.02)))
    return proposal_seconds(make_sampler(replace(config, sampler="known-cost"), space, OBJECTIVES), space, records)


def main() -> None:
    """Print one JSON line per space and number of trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", required=True, metavar="FILE.csv:COLUMN")
    parser.add_argument("--trials", type=int, nargs="+", default=[50, 200, 1000, 2000])
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for count in arguments.trials:
        for name in ("cells", *SPACES):
            seconds = for_cells(arguments.latency, count) if name == "cells" else for_space(name, count)
            row = {"space": name, "trials": count, "first_cpu_s": seconds[0]}
            row["median_cpu_s"] = statistics.median(seconds)
            print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}), flush=True)


if __name__ == "__main__":
    main()
