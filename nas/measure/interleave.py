"""Time two calls in random A B B A order until their ratio is certain enough.

Timing one network after the other finds two copies of one network different as soon as the machine drifts; paired
ratios do not (see the tests).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.measure.measurement_error import MeasurementError
from nas.measure.statistics import Array, Interval, median_interval, ratio_interval
from nas.measure.timers import Call, Timer
from nas.study.timing_doubts import MIN_INTERVAL_SAMPLES, SCATTERED, TOO_FEW

MAX_HALF_WIDTH = 0.01  # of the ratio's interval, for the verdict "ok"
MIN_BLOCKS = 15  # 30 samples of each network, for "ok"
SAMPLE_S = 0.005  # shortest sample; the clock's resolution and a call's overhead are small against it
SETTLED_CHANGE = 0.03  # warm-up ends when the median of three samples changes by less than this share
WARMUP_SHARE = 0.2  # of the budget; warm-up ends then at the latest
MAX_OVERTIME = 5.0  # times the budget, for a slow network: with fewer than six blocks it would have no interval
# Seconds of a GPU's timing before certainty may end it: NVML samples processes every 1/6 to 1 s, and the clock, read 15
# times a second, is compared between two networks by five readings under each.
MIN_WATCHED_S, MIN_WATCHED_EACH_S = 1.5, 0.5
LATENCY_SHARE = 0.15  # of the time after warm-up, for calls with one image
LATENCY_CALLS, MAX_LATENCY_CALLS = 5, 600  # least in a row, and most in all; a 99th percentile needs 299


@dataclass(frozen=True)
class InterleavedSamples:
    """Times of candidate and reference in the same blocks, in seconds per call.

    Raw samples are kept, so that everything can be computed again.
    """

    candidate: Interval
    reference: Interval
    ratio: Interval  # reference time / candidate time of the same block; the candidate is faster above 1
    candidate_s: Array  # (blocks, 2)
    reference_s: Array  # (blocks, 2)
    host_s: Array  # (blocks, 2), of the candidate
    candidate_spans: Array  # (2 * blocks, 2): begin and end of each sample, on the timer's clock
    reference_spans: Array
    latencies_s: Array  # (calls,), with one image, between the blocks
    seconds: float

    @property
    def enough(self) -> bool:
        """Whether there are enough samples for the verdict "ok"."""
        return len(self.candidate_s) >= MIN_BLOCKS

    @property
    def verdict(self) -> str:
        """The verdict of the samples alone.

        It is "too few samples" or "scattered" where no interval can be used, "wide" where the ratio's interval exceeds
        plus or minus one percent or has less than `MIN_BLOCKS` blocks, else "ok". The candidate's own interval may be
        wider: a machine that drifts changes both times, but not their ratio.
        """
        if len(self.candidate_s) < MIN_INTERVAL_SAMPLES:
            return TOO_FEW
        if not self.ratio.usable:
            return SCATTERED
        return "ok" if self.enough and self.ratio.half_width < MAX_HALF_WIDTH else "wide"


def compare(
    candidate: Call,
    reference: Call,
    timer: Timer,
    budget_s: float,
    rng: np.random.Generator,
    lead_in: bool = False,
    single: Call | None = None,
) -> InterleavedSamples:
    """Warm both calls up, then time blocks until the verdict is "ok" or the budget is spent.

    On a GPU the verdict may end the blocks after `MIN_WATCHED_S`, and `MIN_WATCHED_EACH_S` of each network.
    Networks that are too slow for the blocks of an interval get up to `MAX_OVERTIME` times the budget for them.
    Calls with one image are timed between the blocks, so that latency and throughput are of the same moments.

    Args:
        candidate: Call of the network that is measured.
        reference: Call of the network that it is compared with.
        timer: The clock.
        budget_s: Seconds for warm-up and blocks, at least one.
        rng: Draws the order within blocks and the bootstrap.
        lead_in: Whether one call that is not a sample precedes each change of network; for runtimes whose threads or
            caches disturb the next network.
        single: Call of the measured network with one image; None: its latency is not timed.

    Raises:
        MeasurementError: The clock saw no time pass.
    """
    start = timer.now()
    calls = (candidate, reference)
    repeats = warm_up(calls, timer, WARMUP_SHARE * budget_s)
    latencies = LatencyCalls(single, timer)
    blocks: list[Array] = []
    timed_s = np.zeros(2)  # of each network
    check_at = MIN_BLOCKS
    while True:
        began = timer.now()
        blocks.append(_block(calls, repeats, timer, rng, lead_in))
        timed_s += np.ptp(blocks[-1][..., 2:], axis=-1).sum(axis=-1)
        latencies.catch_up()
        now = timer.now()
        limit_s = budget_s if len(blocks) >= MIN_INTERVAL_SAMPLES else MAX_OVERTIME * budget_s
        out_of_time = now + (now - began) > start + limit_s
        if out_of_time or (len(blocks) >= check_at and watched_enough(timer, start, timed_s.min())):
            result = _summarize(blocks, latencies.times_s, now - start, rng)
            if out_of_time or result.verdict == "ok":
                return result
            check_at = len(blocks) * 5 // 4  # a bootstrap takes milliseconds: not after every block


def watched_enough(timer: Timer, start_s: float, each_s: float = math.inf) -> bool:
    """Return whether a timing has lasted long enough for the device's watch.

    Args:
        timer: The clock.
        start_s: Begin of the timing.
        each_s: Seconds of the network that was timed for the shortest time, where two are compared.
    """
    return not timer.queued or (timer.now() - start_s >= MIN_WATCHED_S and each_s >= MIN_WATCHED_EACH_S)


class LatencyCalls:
    """Times calls with one image between blocks, a share of the time.

    The first call of a row is no sample: the blocks before it have other threads and caches warm.
    """

    def __init__(self, call: Call | None, timer: Timer) -> None:
        self.times_s: list[float] = []
        self._call, self._timer = call, timer
        self._began_s, self._spent_s = timer.now(), 0.0

    def catch_up(self) -> None:
        """Time calls in a row, 5 or more, until their share of the time is spent on them."""
        if self._call is None or not self._due(spent_s=0.0):
            return
        start, needed = self._timer.now(), len(self.times_s) + LATENCY_CALLS
        self._timer.run([self._call], [1])
        while len(self.times_s) < needed or self._due(self._timer.now() - start):
            self.times_s.append(self._timer.run([self._call], [1])[0].device_s)
        self._spent_s += self._timer.now() - start

    def _due(self, spent_s: float) -> bool:
        share = (self._spent_s + spent_s) / max(self._timer.now() - self._began_s, 1e-9)
        return share < LATENCY_SHARE and len(self.times_s) < MAX_LATENCY_CALLS


def warm_up(calls: tuple[Call, Call], timer: Timer, budget_s: float) -> tuple[int, int]:
    """Run both calls until their times settle or the budget is spent; return the calls that make a sample of each."""
    deadline = timer.now() + budget_s
    history = [[t.device_s] for t in timer.run(calls, (1, 1))]
    if not all(times[0] > 0 for times in history):
        raise MeasurementError("no samples", "the clock saw no time pass")
    while timer.now() < deadline and not all(_settled(times) for times in history):
        repeats = [_repeats(times) for times in history]
        for times, timing in zip(history, timer.run(calls, repeats), strict=True):
            times.append(timing.device_s)
    return _repeats(history[0]), _repeats(history[1])


def _settled(times: list[float]) -> bool:
    if len(times) < 7:  # the very first call is not a sample
        return False
    earlier, last = np.median(times[-6:-3]), np.median(times[-3:])
    return bool(abs(last - earlier) < SETTLED_CHANGE * last)


def _repeats(times: list[float]) -> int:
    return max(1, int(np.ceil(SAMPLE_S / max(float(np.median(times[-3:])), 1e-9))))


def _block(
    calls: tuple[Call, Call], repeats: tuple[int, int], timer: Timer, rng: np.random.Generator, lead_in: bool
) -> Array:
    """Time one A B B A or B A A B block; return (2, 2, 4): network, sample, (device, host, begin, end) in seconds.

    Device and host times are per call, begin and end are those of the sample. Queued work runs one sample after the
    other. The first call of a queue is no sample: the device waits for the host until it has launched something.
    """
    first = int(rng.integers(2))
    order = (first, 1 - first, 1 - first, first)
    turns: list[tuple[int, int, bool]] = []  # which network, calls, whether it is a sample
    for which in order:
        if (lead_in and (not turns or turns[-1][0] != which)) or (timer.queued and not turns):
            turns.append((which, 1, False))
        turns.append((which, repeats[which], True))
    end = timer.now()
    rows: list[list[tuple[float, ...]]] = [[], []]
    timings = timer.run([calls[which] for which, _, _ in turns], [count for _, count, _ in turns])
    for (which, count, sample), timing in zip(turns, timings, strict=True):
        began, end = end, end + timing.device_s * count
        if sample:
            rows[which].append((timing.device_s, timing.host_s, began, end))
    return np.asarray(rows)


def _summarize(
    blocks: list[Array], latencies_s: Sequence[float], seconds: float, rng: np.random.Generator
) -> InterleavedSamples:
    candidate, reference = np.stack(blocks, axis=1)  # (blocks, 2, 4) each
    if not (np.all(candidate[..., 0] > 0) and np.all(reference[..., 0] > 0)):
        raise MeasurementError("no samples", "the clock saw no time pass")
    return InterleavedSamples(
        candidate=median_interval(candidate[..., 0].ravel(), rng),
        reference=median_interval(reference[..., 0].ravel(), rng),
        ratio=ratio_interval(candidate[..., 0], reference[..., 0], rng),
        candidate_s=candidate[..., 0],
        reference_s=reference[..., 0],
        host_s=candidate[..., 1],
        candidate_spans=candidate[..., 2:].reshape(-1, 2),
        reference_spans=reference[..., 2:].reshape(-1, 2),
        latencies_s=np.asarray(latencies_s),
        seconds=seconds,
    )
