"""How exact are the throughputs that a search predicts, with and without the times of the stages of its timed models?

    python -m experiments.predicted_throughput          (prints the table; some minutes)
    python -m experiments.predicted_throughput RUN      (of a search: eight at a time from all before them)

The table: some architectures of the published table of hybrid backbones are timed, 50 others are predicted. All have
stage times of eager mode; in ONNX Runtime, the whole models' times are those of that runtime. Errors are absolute
differences of logarithms, in %, over eight draws. Nothing is timed here.

A search proposes by these predictions, and trains before it measures where they are exact enough (`trusted_ratio`).

Hardware:  none; reads saved rows
Expected:  docs/explanation/sampler.md
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from experiments.distillation.parallel import load_rows
from experiments.hybrid_findings import first_evaluations
from nas.replay.hybrid_rows import read_rows
from nas.samplers.latency import MIN_MODELS, LatencyPredictor, Observation
from nas.storage.store import read_study
from nas.study.config import SearchConfig
from search_space import ArchSpec

RESULTS = Path(__file__).parent / "results"
TIMINGS = {
    "eager (A, slower)": None,  # the table's own
    "eager (A, faster)": RESULTS / "hybrid_timings_a1.json.gz",
    "ONNX Runtime": RESULTS / "hybrid_timings_onnx.json.gz",
}
COUNTS = (10, 20, 40, 80)
PREDICTED, DRAWS = 50, 8
GROUPS = (MIN_MODELS, 20, 40, 80, 1000)  # of a search's models, by how many were timed before
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Errors:
    """Errors of predictions, as shares, and whether each interval of 95 % contained the measured value."""

    errors: tuple[float, ...]
    inside: tuple[bool, ...]

    @property
    def cells(self) -> str:
        """The median and the 90th percentile in %, and the share of the intervals."""
        median, most = 100 * np.quantile(self.errors, (0.5, 0.9))
        return f"{median:.1f} / {most:.1f} % | {100 * fmean(self.inside):.0f} %"


def timed_models(timings: Path | None) -> list[tuple[ArchSpec, float, dict[str, float]]]:
    """Return the architectures of the table that have timings: spec, ratio to the reference, ms by stage."""
    table = first_evaluations(read_rows())
    of = {row["arch_id"]: row for row in (table if timings is None else load_rows(timings))}
    return [
        (ArchSpec.from_dict(row["spec"]), of[row["arch_id"]]["ratio"][0], of[row["arch_id"]]["stages_ms"])
        for row in table
        if row["arch_id"] in of
    ]


def errors_of(
    timed: Sequence[tuple[ArchSpec, float, Mapping[str, float]]],
    others: Sequence[tuple[ArchSpec, float, Mapping[str, float]]],
    *,
    stages: bool,
    config: SearchConfig,
) -> Errors:
    """Return the errors of predictions for `others` by a predictor that is fitted to `timed`, as a search fits it."""
    seen = [Observation.scaled(spec, 1 / ratio, times if stages else {}) for spec, ratio, times in timed]
    predictor = LatencyPredictor.fit(seen, batch=config.measure_batch_size, resolution=config.distill.img_size)
    predictions = predictor.predict([spec for spec, _, _ in others])
    pairs = [(p, 1 / ratio) for p, (_, ratio, _) in zip(predictions, others, strict=True)]
    return Errors(
        tuple(abs(math.log(p.seconds / measured)) for p, measured in pairs),
        tuple(p.low_s <= measured <= p.high_s for p, measured in pairs),
    )


def drawn_errors(timings: Path | None, count: int, *, stages: bool) -> Errors:
    """Return the errors of eight draws of `count` timed models."""
    models, found = timed_models(timings), []
    for seed in range(DRAWS):
        order = random.Random(seed).sample(models, len(models))
        seen, unseen = order[:count], order[count : count + PREDICTED]
        found.append(errors_of(seen, unseen, stages=stages, config=SearchConfig()))
    return _together(found)


def table_row(name: str, count: int) -> str:
    """Return a row of the table: without the times of stages, and with them."""
    without, with_stages = (drawn_errors(TIMINGS[name], count, stages=stages).cells for stages in (False, True))
    return f"| {name} | {count} | {without} | {with_stages} |"


def searched_errors(run: Path, *, stages: bool) -> dict[str, Errors]:
    """Return the errors of a search's candidates, eight at a time from all those before, by how many there were."""
    study = read_study(run)
    models = [
        (ArchSpec.from_dict(trial.spec), trial.measurement.ratio, trial.measurement.stages_s)
        for trial in study.trials
        if trial.measurement and trial.baseline is None
    ]
    config = SearchConfig.from_dict(study.info.config)
    found: dict[str, list[Errors]] = {}
    for start in range(MIN_MODELS, len(models), 8):
        high = next(each for each in GROUPS if start < each)
        name = f"{GROUPS[GROUPS.index(high) - 1]} to {min(high, len(models)) - 1}"
        errors = errors_of(models[:start], models[start : start + 8], stages=stages, config=config)
        found.setdefault(name, []).append(errors)
    return {name: _together(errors) for name, errors in found.items()}


def _together(parts: Sequence[Errors]) -> Errors:
    return Errors(tuple(e for part in parts for e in part.errors), tuple(e for part in parts for e in part.inside))


def main() -> None:
    """Print the errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="folder of a search")
    run = parser.parse_args().run
    print(
        f"| {'timed before' if run else 'runtime'} | {'' if run else 'timed models | '}median / 90th percentile, whole"
        " models | inside the interval | with stages | inside |"
    )
    print("|---|" + "--:|" * (4 if run else 5))
    if run is None:
        for name in TIMINGS:
            for count in COUNTS:
                print(table_row(name, count), flush=True)
        return
    without, with_stages = (searched_errors(run, stages=stages) for stages in (False, True))
    for name, errors in without.items():
        print(f"| {name} | {errors.cells} | {with_stages[name].cells} |")


if __name__ == "__main__":
    main()
