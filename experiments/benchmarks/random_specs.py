"""Do random specs of a space build, give the shapes that they declare, and count fast enough for a search?

Command:   python -m experiments.benchmarks.random_specs --space full --specs 10000 --seed 0
Hardware:  one CPU core; everything lies on the meta device, so memory doesn't matter
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
from nas.counters import count
from nas.profile import default_resolution
from nas.progress import clock
from search_space import SPACES, ArchSpec, Space

SLOW_MS = 100.0
REPEATS = 5  # of a spec that seems slow: the machine may have been elsewhere
LINE_EVERY_S = 5.0


@dataclass
class Outcome:
    """What came of the specs of one space."""

    build_ms: list[float] = field(default_factory=list)
    check_ms: list[float] = field(default_factory=list)  # build and shape check
    count_ms: list[float] = field(default_factory=list)
    failures: list[tuple[ArchSpec, str]] = field(default_factory=list)


def hollow(spec: ArchSpec) -> Backbone:
    """The network on the meta device."""
    with torch.device("meta"):
        return build(spec)


def check(model: Backbone, resolution: int) -> None:
    """Call the network once. Raises ValueError for a map whose shape isn't as declared."""
    shapes: list[tuple[int, ...]] = []
    hooks = [stage.register_forward_hook(lambda m, i, out: shapes.append(tuple(out.shape))) for stage in model.stages]
    with torch.no_grad():
        summary, spatial = model.eval().encode(torch.empty(1, 3, resolution, resolution, device="meta"))
    for hook in hooks:
        hook.remove()
    sides = [resolution // stride for stride in (*model.strides, model.spatial_stride)]
    widths = (*model.widths, model.spatial_dim)
    expected = [(1, model.summary_dim), *((1, c, side, side) for c, side in zip(widths, sides, strict=True))]
    found = [tuple(summary.shape), *shapes, tuple(spatial.shape)]
    if found != expected:
        raise ValueError(f"shapes {found}, declared {expected}")


def run(space: Space, specs: int, seed: int) -> Outcome:
    """Builds, checks and counts random specs, with progress on stderr."""
    rng, outcome = random.Random(seed), Outcome()
    resolution = default_resolution(space.sample(random.Random(0)))
    began = last_line = time.perf_counter()
    for done in range(1, specs + 1):
        try_one(space.sample(rng), resolution, outcome)
        now = time.perf_counter()
        if now - last_line > LINE_EVERY_S:
            last_line, left_s = now, (now - began) / done * (specs - done)
            print(f"{space.name}: {done}/{specs}, {len(outcome.failures)} failed, ETA {clock(left_s)}", file=sys.stderr)
    return outcome


def try_one(spec: ArchSpec, resolution: int, outcome: Outcome) -> None:
    """Adds the times of one spec, or its failure."""
    try:
        times = [timed(spec, resolution)]
        if times[0][1] > SLOW_MS:
            times += [timed(spec, resolution) for _ in range(REPEATS - 1)]
    except Exception as error:  # whatever a spec provokes is what we look for
        outcome.failures.append((spec, f"{type(error).__name__}: {error}"))
        return
    build_ms, check_ms, count_ms = (median(column) for column in zip(*times, strict=True))
    outcome.build_ms.append(build_ms)
    outcome.check_ms.append(check_ms)
    outcome.count_ms.append(count_ms)


def timed(spec: ArchSpec, resolution: int) -> tuple[float, float, float]:
    """Milliseconds of building, of building and checking, and of counting. Raises ValueError for a wrong shape."""
    began = time.perf_counter()
    model = hollow(spec)
    built = time.perf_counter()
    check(model, resolution)
    checked = time.perf_counter()
    counts = count(model, resolution)
    counted = time.perf_counter()
    if not counts.macs or not counts.params:
        raise ValueError(f"{counts.macs} MACs, {counts.params} parameters")
    return (built - began) * 1e3, (checked - began) * 1e3, (counted - checked) * 1e3


def show(space: Space, outcome: Outcome) -> None:
    """Prints the numbers and each failure."""
    done = len(outcome.check_ms)
    print(f"{space.name}: {done + len(outcome.failures)} random specs, {len(outcome.failures)} failed")
    for spec, reason in outcome.failures:
        print(f"  {reason}\n  {spec.to_json()}")
    if done < 2:
        return
    over = sum(ms > SLOW_MS for ms in outcome.check_ms)
    both = sum(outcome.build_ms) + sum(outcome.count_ms)
    print(f"  build and shape check: {spread(outcome.check_ms)}; {over} over {SLOW_MS:g} ms")
    print(f"  count: {spread(outcome.count_ms)}; {1e3 * done / sum(outcome.count_ms):.0f} specs/s")
    print(f"  build and count: {1e3 * done / both:.0f} specs/s")


def spread(times_ms: Sequence[float]) -> str:
    """Median, 95th percentile and largest."""
    return f"median {median(times_ms):.1f} ms, p95 {quantiles(times_ms, n=20)[-1]:.1f}, max {max(times_ms):.1f}"


def main() -> int:
    """The command; 1 where a spec failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", action="append", choices=list(SPACES), help="may be repeated (default: all)")
    parser.add_argument("--specs", type=int, default=10_000, help="of each space (default 10000)")
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
