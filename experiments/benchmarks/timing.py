"""Measure the reliability of ratios on this machine: A against A, under drift, twice, and the time they take.

    python -m experiments.benchmarks.timing --busy 0
    python -m experiments.benchmarks.timing --busy 2      with two processes that compute all the time
    python -m experiments.benchmarks.timing --report

Space "micro", 64 px, batch 16, fp32, one thread, each measurement in a separate process, at most 3 s. About 12
minutes per command on two cores. Rows are saved in experiments/results; existing ones are not measured again.

floor: eradio_pico against itself. drift: the same, 1.5 s, while the machine becomes 2 % slower (each call is followed
by a wait that grows with time), and as a control the two timed one after the other. agree: random architectures,
measured twice.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

from backbones import build, fuse, resolve
from nas.machine import lock_dir
from nas.measure import Setting, measure_pair
from nas.measure.device_lock import measuring
from nas.measure.environment import environment
from nas.measure.forkserver import ForkServer
from nas.measure.service import MeasurementService
from search_space import SPACES

REFERENCE = "eradio_pico"
SETTING = Setting("cpu", batch=16, resolution=64, budget_s=3.0)
DRIFT, DRIFT_BUDGET_S = 0.02, 1.5
FLOOR = 0.01  # the difference below which two networks are ties: that of two equal ones (A/A floor), rounded
RESULTS = Path(__file__).parents[1] / "results" / "timing.json"


def floor(trial: int, service: MeasurementService) -> dict[str, Any]:
    """Measure the reference against a second copy of itself."""
    return _row(service, REFERENCE, trial)


def agree(trial: int, service: MeasurementService) -> dict[str, Any]:
    """Measure architecture trial // 2 of the space, for the first or the second time."""
    spec = SPACES["micro"].sample(random.Random(trial // 2))
    return {"arch_id": spec.arch_id, **_row(service, spec.to_dict(), trial)}


def drift(trial: int, service: MeasurementService) -> dict[str, Any]:
    """Measure A against A under drift: paired, and one after the other."""
    from experiments.benchmarks.timing import drifting  # as a module that other processes import

    with measuring(lock_dir() / "cpu"):
        return _fork_server().run(drifting, trial, limit_s=120)


@cache
def _fork_server() -> ForkServer:
    return ForkServer(["experiments.benchmarks.timing"])


def drifting(seed: int) -> dict[str, Any]:
    """Measure in this process, while both models become slower."""
    torch.set_num_threads(1)
    began, planned_s = time.perf_counter(), DRIFT_BUDGET_S

    class Slowing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = resolve(REFERENCE)[1]

        def encode(self, images: torch.Tensor) -> Any:
            start = time.perf_counter()
            out = self.backbone.encode(images)
            now = time.perf_counter()
            until = now + (now - start) * DRIFT * (now - began) / planned_s
            while time.perf_counter() < until:
                pass
            return out

    one, other = Slowing(), Slowing()
    setting = replace(SETTING, budget_s=DRIFT_BUDGET_S, seed=seed)
    record = measure_pair(one, other, setting, name_of_reference=REFERENCE).record
    images = torch.randn(SETTING.batch, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    nets = [fuse(net) for net in (one, other)]
    began = time.perf_counter()
    with torch.inference_mode():
        for net in (*nets, *nets):
            net.encode(images)  # the first calls are no samples
        first, second = (_sequential(net, images) for net in nets)
    return {**_columns(record), "sequential": float(np.median(second) / np.median(first))}


def _sequential(net: Any, images: torch.Tensor) -> list[float]:
    times, end = [], time.perf_counter() + DRIFT_BUDGET_S / 2
    while time.perf_counter() < end:
        start = time.perf_counter()
        net.encode(images)
        times.append(time.perf_counter() - start)
    return times


def _row(service: MeasurementService, arch: Any, seed: int) -> dict[str, Any]:
    with measuring(lock_dir() / "cpu"):
        pair = service.measure(arch, REFERENCE, replace(SETTING, seed=seed), name_of_reference=REFERENCE)
    return _columns(pair.record)


def _columns(record: Any) -> dict[str, Any]:
    names = (
        "ratio",
        "ratio_low",
        "ratio_high",
        "throughput_img_s",
        "seconds",
        "samples",
        "verdict",
        "notes",
        "conditions",
    )
    return {name: getattr(record, name) for name in names}


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Run processes that compute all the time during the body."""
    fork = multiprocessing.get_context("spawn")
    busy = [fork.Process(target=_compute, daemon=True) for _ in range(count)]
    for process in busy:
        process.start()
    try:
        yield
    finally:
        for process in busy:
            process.kill()


def _compute() -> None:
    torch.set_num_threads(1)
    net, images = build(SPACES["micro"].sample(random.Random(0))), torch.randn(16, 3, 64, 64)
    while True:
        net.encode(images).summary.sum().backward()


KINDS: dict[str, tuple[Callable[[int, MeasurementService], dict[str, Any]], int]] = {
    "floor": (floor, 30),
    "drift": (drift, 100),
    "agree": (agree, 60),
}


def report(rows: list[dict[str, Any]]) -> None:
    """Print one paragraph per load."""
    for busy in sorted({row["busy"] for row in rows}):
        of = {kind: [row for row in rows if (row["busy"], row["kind"]) == (busy, kind)] for kind in KINDS}
        print(f"{busy} busy processes")
        for kind, of_kind in of.items():
            if of_kind:
                print(f"  {kind}: n = {len(of_kind)}, {_about(kind, of_kind)}")


def _about(kind: str, rows: list[dict[str, Any]]) -> str:
    ratios = np.array([row["ratio"] for row in rows])
    widths = np.array([(row["ratio_high"] - row["ratio_low"]) / 2 / row["ratio"] for row in rows])
    verdicts = {v: sum(row["verdict"] == v for row in rows) for v in sorted({row["verdict"] for row in rows})}
    seconds = np.array([row["seconds"] for row in rows])
    about = (
        f"half-width median {np.median(widths):.2%}, 90th percentile {np.percentile(widths, 90):.2%}; seconds median"
        f" {np.median(seconds):.2f}, largest {seconds.max():.2f}; verdicts {verdicts}"
    )
    if kind == "agree":
        pairs = {row["arch_id"]: [r for r in rows if r["arch_id"] == row["arch_id"]] for row in rows}
        one, other = np.array([[r["ratio"] for r in pair] for pair in pairs.values() if len(pair) == 2]).T
        apart = np.abs(np.log(one / other))
        tau = kendalltau(one, other).statistic
        return f"{len(one)} architectures, Kendall tau {tau:.3f}, apart in the median {np.median(apart):.2%}; {about}"
    excluded = np.array([not row["ratio_low"] <= 1 <= row["ratio_high"] for row in rows])
    off = np.abs(ratios - 1)
    text = (
        f"off by {np.median(off):.2%} in the median, {np.percentile(off, 95):.2%} at the 95th percentile,"
        f" {off.max():.2%} at most; mean {ratios.mean() - 1:+.2%}, below 1 in {(ratios < 1).sum()}; 95 % interval"
        f" excludes 1: {excluded.sum()} of {len(rows)}; excludes 1 and off by over {FLOOR:.0%} (called different):"
        f" {(excluded & (off > FLOOR)).sum()} of {len(rows)}; {about}"
    )
    if kind == "drift":
        apart = np.array([row["sequential"] for row in rows]) - 1
        text += f"; one after the other: mean {apart.mean():+.2%}"
        for limit in (FLOOR / 2, FLOOR):
            paired, sequential = (int((np.abs(values) > limit).sum()) for values in (off, apart))
            text += f"; off by over {limit:.1%}: {paired} paired, {sequential} one after the other"
    return text


def main() -> None:
    """Measure the missing rows and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, default=0, help="processes that compute meanwhile (default: 0)")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--trials", type=int, help="measurements of each kind (default: 30, 100 and 60)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="only print existing rows")
    args = parser.parse_args()
    rows = json.loads(args.results.read_text())["rows"] if args.results.exists() else []
    done = {(row["busy"], row["kind"], row["trial"]) for row in rows}
    todo = [(kind, i) for kind in args.kinds.split(",") for i in range(args.trials or KINDS[kind][1])]
    todo = [(kind, i) for kind, i in todo if (args.busy, kind, i) not in done and not args.report]
    began = time.monotonic()
    with busy_processes(args.busy if todo else 0), MeasurementService(threads=1) as service:
        for number, (kind, trial) in enumerate(todo, start=1):
            row = KINDS[kind][0](trial, service)
            rows.append({"busy": args.busy, "kind": kind, "trial": trial, **row})
            args.results.write_text(json.dumps({"environment": environment("cpu"), "rows": rows}))
            left_s = (time.monotonic() - began) / number * (len(todo) - number)
            print(f"{kind} {trial}: {row['ratio']:.4f} {row['verdict']}; {left_s / 60:.0f} min left", flush=True)
    report(rows)


if __name__ == "__main__":
    main()
