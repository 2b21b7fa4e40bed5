"""Time any number of calls in random rounds, so that a drifting machine favors none.

`nas.measure.interleave` does the same for one pair, in A B B A blocks with a paired ratio.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from nas.measure.conditions import Conditions
from nas.measure.interleave import MAX_HALF_WIDTH, SAMPLE_S, watched_enough
from nas.measure.statistics import Interval, median_interval
from nas.measure.timers import Call, Timer
from nas.measure.verdicts import device_verdict
from nas.study.timing_doubts import MIN_INTERVAL_SAMPLES, SCATTERED, TOO_FEW

Key = TypeVar("Key", bound=Hashable)

MIN_SAMPLES = 30  # of each call before narrow intervals may end the rounds


@dataclass(frozen=True)
class CallTimes:
    """Seconds of one call.

    Attributes:
        time_s: Median over samples of the mean of a sample's calls.
        samples: Number of samples.
    """

    time_s: Interval
    samples: int

    @property
    def interval_doubt(self) -> str | None:
        """Why there is no usable interval: "too few samples" or "scattered"; None if there is one."""
        if self.samples < MIN_INTERVAL_SAMPLES:
            return TOO_FEW
        return None if self.time_s.usable else SCATTERED

    def verdict(self, conditions: Conditions, launch_share: float | None) -> str:
        """Return the verdict of `nas.measure.verdicts` on one call, which is compared with no reference.

        Args:
            conditions: Conditions while the calls were timed.
            launch_share: Host time over device time of the call; None on a CPU.
        """
        if doubt := device_verdict(conditions, launch_share or 0.0) or self.interval_doubt:
            return doubt
        return "ok" if self.samples >= MIN_SAMPLES and self.time_s.half_width < MAX_HALF_WIDTH else "wide"


def interleaved_times(
    calls: Mapping[Key, Call], timer: Timer, budget_s: float, rng: np.random.Generator
) -> dict[Key, CallTimes]:
    """Time `calls` in turns, after warming them up; return each one's times with a 95 % interval.

    Every round takes one sample of each call, in random order. There is at least one round; rounds end when all
    intervals are within one percent, on a GPU after `MIN_WATCHED_S`, or the budget is spent.
    """
    repeats = {key: _repeats(call, timer) for key, call in calls.items()}
    rounds: dict[Key, list[float]] = {key: [] for key in calls}  # seconds of a call, by sample
    start, done, check_at = timer.now(), 0, MIN_SAMPLES
    while calls:
        round_start = timer.now()
        for key in rng.permutation(np.array(list(calls), dtype=object)):
            rounds[key].append(_sample(calls[key], repeats[key], timer))
        done += 1
        if timer.now() + (timer.now() - round_start) > start + budget_s:
            break
        if done >= check_at and watched_enough(timer, start):
            if all(_times(samples, rng).time_s.half_width < MAX_HALF_WIDTH for samples in rounds.values()):
                break
            check_at = done * 5 // 4
    return {key: _times(samples, rng) for key, samples in rounds.items()}


def _repeats(call: Call, timer: Timer) -> int:
    timer.run([call], [1])
    return max(1, math.ceil(SAMPLE_S / max(timer.run([call], [1])[0].device_s, 1e-9)))


def _sample(call: Call, repeats: int, timer: Timer) -> float:
    """Return the mean seconds of `repeats` calls in a row.

    A call before them is not timed where work is queued: the device waits until the host has launched something.
    """
    lead_in = int(timer.queued)
    calls = repeats + lead_in
    timed = timer.run([call] * calls, [1] * calls)[lead_in:]
    return sum(timing.device_s for timing in timed) / repeats


def _times(samples: list[float], rng: np.random.Generator) -> CallTimes:
    return CallTimes(median_interval(np.array(samples), rng), len(samples))
