"""Several calls timed by turns, so that a drifting machine favours none; and what to do when memory runs out."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import numpy as np
import torch

from nas.measure.interleave import HALF_WIDTH, SAMPLE_S
from nas.measure.statistics import Interval, median_interval
from nas.measure.timers import Call, Timer

Key = TypeVar("Key", bound=Hashable)

ENOUGH = 30  # samples of each before certainty may end a sweep


def times_by_turns(
    calls: Mapping[Key, Call], timer: Timer, budget_s: float, rng: np.random.Generator
) -> dict[Key, tuple[Interval, int]]:
    """Median seconds a call with its 95 % interval, and the number of samples, for each of `calls`.

    Every round samples each call once, in random order; at least one round, then until all are within one percent or
    the budget is spent. The calls are warmed up before.
    """
    repeats = {key: _repeats(call, timer) for key, call in calls.items()}
    samples: dict[Key, list[float]] = {key: [] for key in calls}
    start, rounds, check_at = timer.now(), 0, ENOUGH
    while calls:
        began = timer.now()
        for key in rng.permutation(np.array(list(calls), dtype=object)):
            samples[key].append(timer.run([calls[key]], [repeats[key]])[0].device_s)
        rounds += 1
        if timer.now() + (timer.now() - began) > start + budget_s:
            break
        if rounds >= check_at:
            if all(_median(times, rng).half_width < HALF_WIDTH for times in samples.values()):
                break
            check_at = rounds * 5 // 4
    return {key: (_median(times, rng), len(times)) for key, times in samples.items()}


def largest_that_fits(fits: Callable[[int], bool], known: int, failed: int) -> int:
    """The largest whole number from `known`, which fits, up to below `failed`, which doesn't, by bisection."""
    while failed - known > 1:
        middle = (known + failed) // 2
        known, failed = (middle, failed) if fits(middle) else (known, middle)
    return known


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is a device's or the host's way to say that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _repeats(call: Call, timer: Timer) -> int:
    timer.run([call], [1])
    return max(1, math.ceil(SAMPLE_S / max(timer.run([call], [1])[0].device_s, 1e-9)))


def _median(times: list[float], rng: np.random.Generator) -> Interval:
    return median_interval(np.asarray(times), rng)
