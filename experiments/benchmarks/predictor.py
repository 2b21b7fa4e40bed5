"""Compare latency predictions for untimed architectures: `nas.samplers.latency` and other methods.

    python -m experiments.benchmarks.predictor --collect 200    time architectures; continues an interrupted run
    python -m experiments.benchmarks.predictor --report         print the tables of the existing rows
    python -m experiments.benchmarks.predictor --space laptop --collect 150 --report
    python -m experiments.benchmarks.predictor --space full --collect 40 --report

Random architectures of space "micro", 64 px, batch 16, each interleaved with eradio_pico in A B B A order for at most
2.5 s, then its stages for 0.7 s; 30 of them twice, for the noise. "laptop": the same, each once. "full": 224 px,
batch 4, with eradio_xt, 7 s and 2 s. All in fp32, channels-last, fused, eager, one thread. The next call repeats rows
whose ratio has a half-width over 2 %, and keeps the more precise one. The models predict the time relative to the
reference's: seconds depend on other load (a model takes 11 or 20 ms), the ratio does not.

The report says what each model predicts for architectures outside its fit, and how well the predictor does without any
timed architecture that has a block, a stem or a downsampling: the first one that a search meets.

Hardware: two hyperthreads of an AMD EPYC (torch 2.13). Time: 13 minutes on an idle machine; "laptop" 9, "full" 7. The
report fits each model ten times: 3 minutes on an idle machine, 8 on a busy one.
Expected: median error under 5 % from 100 architectures (2 %, where two measurements differ by 0.9 %).
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr
from torch import nn

from backbones import build, fuse, resolve
from experiments.benchmarks.predictor_models import BATCH, MODELS, RESOLUTION_PX, SPACE, Fit, ours
from nas.files import atomic_write
from nas.machine import lock_dir
from nas.measure.device_lock import measuring
from nas.measure.environment import environment
from nas.measure.interleave import compare
from nas.measure.stages import called_modules, stage_times
from nas.measure.timers import HostTimer
from nas.numbers import clock
from nas.samplers.latency import LatencyPredictor, Observation, Prediction
from nas.samplers.latency.predictor import splits
from nas.samplers.latency.stage_costs import stage_costs
from nas.study.records import REST
from search_space import SPACES, ArchSpec

BUFFERS = 3
WIDE = 0.02  # half-width of a ratio's interval
FEWEST = 10  # architectures with, and without, a kind of stage
TRAINED_ON, SPLITS, SIZES = 100, 10, (20, 50, 100, 150)
Row = dict[str, Any]


@dataclass(frozen=True)
class HeldOut:
    """Errors of predictions on held-out measurements; 0.05 is 5 % of the measured time."""

    measurements: int
    median_error: float
    p90_error: float
    kendall_tau: float
    spearman_rho: float
    coverage: float  # share of measured times within their 95 % interval

    def __str__(self) -> str:
        return (
            f"median error {self.median_error:.1%}, nine in ten within {self.p90_error:.1%}, Kendall tau"
            f" {self.kendall_tau:.2f}, Spearman rho {self.spearman_rho:.2f}, {self.coverage:.0%} in their 95 % interval"
            f" ({self.measurements} held-out measurements)"
        )


def held_out(measured_s: Sequence[float], predicted_s: Sequence[float], inside: Sequence[bool]) -> HeldOut:
    """Compare measurements with their predictions; `inside`: whether each measurement lies within its interval."""
    measured, predicted = np.asarray(measured_s), np.asarray(predicted_s)
    errors = np.abs(predicted / measured - 1)
    return HeldOut(
        measurements=len(errors),
        median_error=float(np.median(errors)),
        p90_error=float(np.quantile(errors, 0.9)),
        kendall_tau=float(kendalltau(predicted, measured).statistic),
        spearman_rho=float(spearmanr(predicted, measured).statistic),
        coverage=float(np.mean(inside)),
    )


def cross_validated(predictor: LatencyPredictor, count: int = 10) -> HeldOut:
    """Return the errors of a cross-validation in `count` folds; all observations of an architecture are in one."""
    measured: list[float] = []
    predictions: list[Prediction] = []
    batch, resolution = predictor.model.batch, predictor.model.resolution
    for seen, unseen in splits(predictor.observations, count):
        fitted = LatencyPredictor.fit(seen, batch=batch, resolution=resolution)
        predictions += fitted.predict([o.spec for o in unseen])
        measured += [o.seconds for o in unseen]
    inside = [p.low_s <= s <= p.high_s for p, s in zip(predictions, measured, strict=True)]
    return held_out(measured, [p.seconds for p in predictions], inside)


@dataclass(frozen=True)
class Scale:
    """What is timed, and for how long."""

    space: str
    batch: int
    resolution: int
    reference: str
    compare_s: float
    stages_s: float
    again: int  # architectures measured twice

    @property
    def results(self) -> Path:
        """Return the file of the rows."""
        return Path(__file__).parents[1] / "results" / f"predictor_{self.space}.json"


SCALES = {
    SPACE: Scale(SPACE, BATCH, RESOLUTION_PX, "eradio_pico", 2.5, 0.7, again=30),
    "laptop": Scale("laptop", BATCH, RESOLUTION_PX, "eradio_pico", 2.5, 0.7, again=0),
    "full": Scale("full", 4, 224, "eradio_xt", 7.0, 2.0, again=0),
}


def drawn(scale: Scale, count: int) -> list[ArchSpec]:
    """Return distinct random specs, always the same."""
    rng, specs = random.Random(0), dict[str, ArchSpec]()
    while len(specs) < count:
        spec = SPACES[scale.space].sample(rng)
        specs.setdefault(spec.arch_id, spec)
    return list(specs.values())


def measured(scale: Scale, spec: ArchSpec, turn: int, reference: nn.Module) -> Row:
    """Return one row: the model interleaved with the reference, then its stages. Holds the device's lock."""
    torch.manual_seed(turn)
    net = fuse(build(spec))
    shape = (scale.batch, 3, scale.resolution, scale.resolution)
    images = [torch.randn(shape).contiguous(memory_format=torch.channels_last) for _ in range(BUFFERS)]
    with measuring(lock_dir() / "cpu"), torch.inference_mode():
        calls = [_call(model, images) for model in (net, reference)]
        times = compare(calls[0], calls[1], HostTimer(), scale.compare_s, np.random.default_rng(turn))
        stages = stage_times(net, called_modules(net, net.stage_modules(), images[0]), images[0], scale.stages_s)
    ratio = times.ratio
    return {
        "arch_id": spec.arch_id,
        "turn": turn,
        "seconds": round(times.candidate.value, 7),
        "reference_s": round(times.reference.value, 7),
        "ratio": [round(x, 5) for x in (ratio.value, ratio.low, ratio.high)],
        "samples": int(times.candidate_s.size),
        "whole_s": round(stages.whole_s, 7),
        "stages_s": {name: round(seconds, 7) for name, seconds in stages.stages_s.items()},
        "spec": spec.to_dict(),
    }


def _call(model: Any, images: list[torch.Tensor]) -> Callable[[], object]:
    turn = itertools.cycle(images)
    return lambda: model.encode(next(turn))


def half_width(row: Row) -> float:
    """Return the relative half-width of the ratio's interval."""
    value, low, high = row["ratio"]
    return float(high - low) / (2 * value)


def collect(scale: Scale, count: int) -> None:
    """Time the missing architectures, then again those with wide intervals; save after each."""
    rows: dict[tuple[str, int], Row] = {(row["arch_id"], row["turn"]): row for row in kept(scale)}
    specs = drawn(scale, count)
    wanted = [(spec, 0) for spec in specs] + [(spec, 1) for spec in specs[: scale.again]]
    missing = [(spec, turn) for spec, turn in wanted if (spec.arch_id, turn) not in rows]
    wide = [(spec, turn) for spec, turn in wanted if (spec.arch_id, turn) in rows]
    wide = [(spec, turn) for spec, turn in wide if half_width(rows[spec.arch_id, turn]) > WIDE]
    reference, began = fuse(resolve(scale.reference)[1]), time.monotonic()
    for done, (spec, turn) in enumerate([*missing, *wide], start=1):
        row, key = measured(scale, spec, turn, reference), (spec.arch_id, turn)
        rows[key] = min(row, rows.get(key, row), key=half_width)
        save(scale, list(rows.values()))
        total = len(missing) + len(wide)
        left = clock((time.monotonic() - began) / done * (total - done))
        print(f"{done}/{total} {spec.arch_id} {row['ratio'][0]:.3f} +- {half_width(row):.1%} ETA {left}", flush=True)
    imprecise = sum(half_width(row) > WIDE for row in rows.values())
    print(
        f"{len(rows)} rows, {imprecise} with half-widths over {WIDE:.0%}"
        + ("; repeat the command for them" if imprecise else "")
    )


def kept(scale: Scale) -> list[Row]:
    """Return the existing rows."""
    rows: list[Row] = json.loads(scale.results.read_text())["rows"] if scale.results.exists() else []
    return rows


def save(scale: Scale, rows: Sequence[Row]) -> None:
    """Write one row per line."""
    names = ("cpu", "cpus", "threads", "python", "torch")
    setting = {name: getattr(scale, name) for name in ("space", "reference", "batch", "resolution")}
    setting |= {name: environment("cpu")[name] for name in names}
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    atomic_write(scale.results, f'{{"setting": {json.dumps(setting)},\n"rows": [\n{lines}\n]}}\n')


def observed(rows: Sequence[Row]) -> list[Observation]:
    """Return times relative to the reference's."""
    return [Observation.scaled(ArchSpec.from_dict(r["spec"]), 1 / r["ratio"][0], _by_stage(r)) for r in rows]


def _by_stage(row: Row) -> dict[str, float]:
    return row["stages_s"] | {REST: row["whole_s"] - sum(row["stages_s"].values())}


def random_splits(
    observations: Sequence[Observation], size: int
) -> Iterator[tuple[list[Observation], list[Observation]]]:
    """Yield (seen, unseen): first in the order of sampling, then at random."""
    for seed in range(SPLITS):
        order = list(observations)
        if seed:
            random.Random(seed).shuffle(order)
        yield order[:size], order[size:]


def errors(fit: Fit, observations: Sequence[Observation], size: int) -> str:
    """Return mean and spread of the scores over all splits."""
    pairs = [(unseen, fit(seen)([o.spec for o in unseen])) for seen, unseen in random_splits(observations, size)]
    return cells([scores([o.seconds for o in unseen], list(seconds)) for unseen, seconds in pairs])


def scores(measured_s: Sequence[float], predicted_s: Sequence[float]) -> tuple[float, ...]:
    """Return median error and 90th percentile in percent, Kendall tau, Spearman rho."""
    accuracy = held_out(measured_s, predicted_s, [True] * len(measured_s))
    return 100 * accuracy.median_error, 100 * accuracy.p90_error, accuracy.kendall_tau, accuracy.spearman_rho


def cells(of_splits: Sequence[tuple[float, ...]]) -> str:
    """Return mean and spread of each score."""
    means, spreads = np.mean(of_splits, axis=0), np.std(of_splits, axis=0)
    texts = [f"{m:.{d}f} +- {s:.{d}f}" for m, s, d in zip(means, spreads, (1, 1, 3, 3), strict=True)]
    return "".join(f"{text:>16}" for text in texts)


def report(scale: Scale, rows: Sequence[Row]) -> None:
    """Print the tables; other models are compared for "micro" only."""
    if scale.space == SPACE:
        compared(rows)
    first = observed([row for row in rows if row["turn"] == 0])
    whole = LatencyPredictor.fit(first, batch=scale.batch, resolution=scale.resolution)
    print(f"cross-validated on all {len(first)} architectures: {cross_validated(whole)}")
    for kind, count in kinds(scale, first).items():
        print(f"fitted without {f'{kind} ({count}):':24} {without(kind, scale, first)}", flush=True)


def compared(rows: Sequence[Row]) -> None:
    """Print all models, the noise and the learning curve; on stderr, the lines done and the ETA."""
    first, second = (observed([r for r in rows if r["turn"] == turn]) for turn in (0, 1))
    first_seconds = {o.spec.arch_id: o.seconds for o in first}
    twice = scores([first_seconds[o.spec.arch_id] for o in second], [o.seconds for o in second])
    print(f"{len(first)} architectures; trained on {TRAINED_ON}, held out the rest, {SPLITS} splits: mean and spread\n")
    print(f"{'':36}{'median error %':>16}{'p90 error %':>16}{'Kendall tau':>16}{'Spearman rho':>16}")
    print(f"{f'{len(second)} measured twice':36}{cells([twice])}", flush=True)
    lines: list[tuple[str, Callable[[], object]]]
    lines = [(name, partial(errors, fit, first, TRAINED_ON)) for name, fit in MODELS.items()]
    for stages, label in ((True, ""), (False, ", whole only")):
        sizes = [(f"nas.samplers.latency, {size} timed{label}", size) for size in SIZES]
        lines += [(name, partial(errors, ours(stages), first, size)) for name, size in sizes]
    began = time.monotonic()
    for done, (name, line) in enumerate(lines, start=1):
        print(f"{name:36}{line()}", flush=True)
        left_s = (time.monotonic() - began) / done * (len(lines) - done)
        print(f"{done}/{len(lines)} ETA {clock(left_s)}", file=sys.stderr, flush=True)


def kinds(scale: Scale, observations: Sequence[Observation]) -> dict[str, int]:
    """Return the kinds of stages, as blocks, stems and downsamplings, each with its number of architectures.

    Each one returned is in at least FEWEST architectures, to predict, and at least as many lack it, to fit.
    """
    counts = Counter(kind for o in observations for kind in _kinds(scale, o.spec))
    return {kind: n for kind, n in sorted(counts.items()) if FEWEST <= n <= len(observations) - FEWEST}


def _kinds(scale: Scale, spec: ArchSpec) -> set[str]:
    return {stage.kind for stage in stage_costs(spec, scale.batch, scale.resolution)}


def without(kind: str, scale: Scale, observations: Sequence[Observation]) -> HeldOut:
    """Return errors on the architectures with a kind of stage, after a fit on those without it."""
    having = [o for o in observations if kind in _kinds(scale, o.spec)]
    others = [o for o in observations if kind not in _kinds(scale, o.spec)]
    predictor = LatencyPredictor.fit(others, batch=scale.batch, resolution=scale.resolution)
    guesses = predictor.predict([o.spec for o in having])
    inside = [p.low_s <= o.seconds <= p.high_s for p, o in zip(guesses, having, strict=True)]
    return held_out([o.seconds for o in having], [p.seconds for p in guesses], inside)


def main() -> None:
    """Collect rows, print tables, or both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collect", type=int, metavar="N", help="time N architectures, except existing ones")
    parser.add_argument("--space", choices=list(SCALES), default=SPACE)
    parser.add_argument("--report", action="store_true", help="print the tables (default: no)")
    arguments = parser.parse_args()
    if not (arguments.collect or arguments.report):
        parser.error("give --collect N, --report or both")
    torch.set_num_threads(1)
    if arguments.collect:
        collect(SCALES[arguments.space], arguments.collect)
    if arguments.report:
        report(SCALES[arguments.space], kept(SCALES[arguments.space]))


if __name__ == "__main__":
    main()
