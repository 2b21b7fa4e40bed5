"""Several calls timed by turns, so that a drifting machine favours none; and what to do when memory runs out."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from nas.measure.interleave import SAMPLE_S
from nas.measure.statistics import Array, Interval, median_interval, percentile
from nas.measure.timers import Call, Timer
from nas.measure.verdicts import HALF_WIDTH

Key = TypeVar("Key", bound=Hashable)

ENOUGH = 30  # samples of each before certainty may end a sweep


@dataclass(frozen=True)
class CallTimes:
    """Seconds of one call: `time_s` the median of samples of several calls each, `calls_s` (calls,) each by itself."""

    time_s: Interval
    samples: int
    calls_s: Array

    def percentile_ms(self, q: float) -> float | None:
        """Milliseconds under which q percent of the calls stay; None where there are too few to know."""
        seconds = percentile(self.calls_s, q)
        return None if seconds is None else seconds * 1e3


def interleaved_times(
    calls: Mapping[Key, Call], timer: Timer, budget_s: float, rng: np.random.Generator
) -> dict[Key, CallTimes]:
    """How long each of `calls` takes, with 95 % intervals.

    Every round samples each call once, in random order; at least one round, then until all are within one percent or
    the budget is spent. The calls are warmed up before.
    """
    repeats = {key: _repeats(call, timer) for key, call in calls.items()}
    rounds: dict[Key, list[list[float]]] = {key: [] for key in calls}  # seconds of the calls of each sample
    start, done, check_at = timer.now(), 0, ENOUGH
    while calls:
        began = timer.now()
        for key in rng.permutation(np.array(list(calls), dtype=object)):
            rounds[key].append(_sample(calls[key], repeats[key], timer))
        done += 1
        if timer.now() + (timer.now() - began) > start + budget_s:
            break
        if done >= check_at:
            if all(_times(samples, rng).time_s.half_width < HALF_WIDTH for samples in rounds.values()):
                break
            check_at = done * 5 // 4
    return {key: _times(samples, rng) for key, samples in rounds.items()}


def largest_fitting(fits: Callable[[int], bool], known: int, failed: int) -> int:
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


def _sample(call: Call, repeats: int, timer: Timer) -> list[float]:
    """Seconds of `repeats` calls in a row, each timed by itself: means would hide the slow ones."""
    return [timing.device_s for timing in timer.run([call] * repeats, [1] * repeats)]


def _times(samples: list[list[float]], rng: np.random.Generator) -> CallTimes:
    calls_s = np.asarray(samples, dtype=np.float64)
    return CallTimes(median_interval(calls_s.mean(axis=1), rng), len(samples), calls_s.ravel())
