"""Build random specs of a space; check their shapes, and the time of counting them.

Command:   python -m experiments.benchmarks.random_specs --space full --specs 10000 --seed 0
Hardware:  one CPU core; all tensors are on the meta device, which needs no memory
Time:      see experiments/LOG.md
Expected:  no failure, no spec over 100 ms, 50 specs a second or more counted

Without --space, every space. Exit code 1 where a spec fails; its JSON is printed.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles

import torch

from backbones import Backbone, build
from backbones.skip_init import skip_init
from nas.measure.counts.macs import MacCountingMode, evaluating
from nas.measure.counts.totals import totals
from nas.numbers import clock
from search_space import SPACES, ArchSpec, Space

SLOW_MS = 100.0
REPEATS = 5  # of a spec that seems slow: it may have met the garbage collector
LINE_EVERY_S = 5.0


@dataclass
class Outcome:
    """Milliseconds and failures of the specs of one space."""

    totals_ms: list[float] = field(default_factory=list)
    build_ms: list[float] = field(default_factory=list)
    check_ms: list[float] = field(default_factory=list)  # build and shape check
    failures: list[tuple[ArchSpec, str]] = field(default_factory=list)


def built(spec: ArchSpec) -> Backbone:
    """Return the model on the meta device."""
    with skip_init():
        return build(spec)


def check(model: Backbone, resolution: int) -> int:
    """Return the MACs of one call; ValueError where a map's shape is not the declared one."""
    shapes: list[tuple[int, ...]] = []
    hooks = [stage.register_forward_hook(lambda m, i, out: shapes.append(tuple(out.shape))) for stage in model.stages]
    with evaluating(model), MacCountingMode() as mode:
        summary, spatial = model.encode(torch.empty(1, 3, resolution, resolution, device="meta"))
    for hook in hooks:
        hook.remove()
    sides = [-(-resolution // stride) for stride in (*model.strides, model.spatial_stride)]
    widths = (*model.widths, model.spatial_dim)
    expected = [(1, model.summary_dim), *((1, c, side, side) for c, side in zip(widths, sides, strict=True))]
    actual = [tuple(summary.shape), *shapes, tuple(spatial.shape)]
    if actual != expected:
        raise ValueError(f"shapes {actual}, declared {expected}")
    return mode.macs


def run(space: Space, specs: int, seed: int) -> Outcome:
    """Build, check and count random specs, with progress on stderr; Ctrl-C ends it early with the results so far."""
    rng, outcome = random.Random(seed), Outcome()
    began = last_line = time.perf_counter()
    try:
        for done in range(1, specs + 1):
            try_one(space.sample(rng), space.image_px, outcome)
            now = time.perf_counter()
            if now - last_line > LINE_EVERY_S:
                last_line, left = now, clock((now - began) / done * (specs - done))
                print(f"{space.name}: {done}/{specs}, {len(outcome.failures)} failed, ETA {left}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"{space.name}: interrupted", file=sys.stderr)
    return outcome


def try_one(spec: ArchSpec, resolution: int, outcome: Outcome) -> None:
    """Add the times of one spec, or its failure, to the outcome."""
    try:
        times = [timed(spec, resolution)]
        if times[0][1] > SLOW_MS:
            times += [timed(spec, resolution) for _ in range(REPEATS - 1)]
    except Exception as error:  # of any kind: failures are the result
        outcome.failures.append((spec, f"{type(error).__name__}: {error}"))
        return
    outcome.build_ms.append(median(build_ms for build_ms, _, _ in times))
    outcome.check_ms.append(median(check_ms for _, check_ms, _ in times))
    outcome.totals_ms.append(times[0][2])  # repetitions find all parts in the cache


def timed(spec: ArchSpec, resolution: int) -> tuple[float, float, float]:
    """Return CPU milliseconds of building, of building and checking, and of the totals; ValueError for wrong counts.

    CPU time of one thread is independent of other load.
    """
    began = time.process_time()
    counted = totals(spec, resolution)
    totals_end = time.process_time()
    model = built(spec)
    build_end = time.process_time()
    macs = check(model, resolution)
    check_end = time.process_time()
    actual = (macs, sum(p.numel() for p in model.parameters()))
    if counted != actual or not all(actual):
        raise ValueError(f"MACs and parameters {actual}, by its parts {tuple(counted)}")
    return (build_end - totals_end) * 1e3, (check_end - totals_end) * 1e3, (totals_end - began) * 1e3


def show(space: Space, outcome: Outcome) -> None:
    """Print the numbers and each failure."""
    done = len(outcome.check_ms)
    print(f"{space.name}: {done + len(outcome.failures)} random specs, {len(outcome.failures)} failed")
    for spec, reason in outcome.failures:
        print(f"  {reason}\n  {spec.to_json()}")
    if done < 2:
        return
    over = sum(ms > SLOW_MS for ms in outcome.check_ms)
    last = outcome.totals_ms[-max(done // 10, 1) :]
    print(f"  build: {spread(outcome.build_ms)}")
    print(f"  build and shape check, which counts: {spread(outcome.check_ms)}; {over} over {SLOW_MS:g} ms")
    print(
        f"  MACs and parameters of a spec: {spread(outcome.totals_ms)}; {per_second(outcome.totals_ms):.0f} specs/s,"
        f" {per_second(last):.0f} in the last tenth"
    )


def per_second(times_ms: Sequence[float]) -> float:
    """Return the number per second."""
    return 1e3 * len(times_ms) / sum(times_ms)


def spread(times_ms: Sequence[float]) -> str:
    """Return median, 95th percentile and maximum as text."""
    return f"median {median(times_ms):.1f} ms, p95 {quantiles(times_ms, n=20)[-1]:.1f}, max {max(times_ms):.1f}"


def main() -> int:
    """Check all spaces; 1 where a spec failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", action="append", choices=list(SPACES), help="may be repeated (default: all)")
    parser.add_argument("--specs", type=int, default=10_000, help="specs of each space (default: 10000)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    failed = False
    for name in arguments.space or SPACES:
        outcome = run(SPACES[name], arguments.specs, arguments.seed)
        show(SPACES[name], outcome)
        failed = failed or bool(outcome.failures)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
