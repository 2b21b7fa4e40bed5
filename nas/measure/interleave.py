"""The protocol: two arms timed in random A B B A order until the answer is certain enough. Knows no network.

Sequential timing calls two identical nets different as soon as the machine drifts; paired ratios do not (see tests).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nas.measure.statistics import Array, Interval, median_interval, ratio_interval
from nas.measure.timers import Call, Timer

SAMPLE_S = 0.005  # one sample lasts at least this long, so that the clock's grain and a call's overhead vanish in it
HALF_WIDTH = 0.01  # certain enough
MIN_BLOCKS = 15  # 30 samples an arm before a result may be "ok"
SETTLED = 0.03  # warm-up ends when medians of three samples change less than this ...
WARMUP_SHARE = 0.2  # ... or at this share of the budget


@dataclass(frozen=True)
class Comparison:
    """Candidate against reference. Times are seconds per call; raw samples are kept so that a report can recompute."""

    candidate: Interval
    reference: Interval
    ratio: Interval  # reference time / candidate time of the same block: over 1, the candidate is faster
    candidate_s: Array  # (blocks, 2)
    reference_s: Array  # (blocks, 2)
    host_s: Array  # (blocks, 2), the candidate's
    seconds: float

    @property
    def verdict(self) -> str:
        """ "ok", or "wide" where samples are few or an interval is wider than plus or minus one percent."""
        widths = (self.candidate.half_width, self.ratio.half_width)
        return "ok" if len(self.candidate_s) >= MIN_BLOCKS and max(widths) < HALF_WIDTH else "wide"


def compare(candidate: Call, reference: Call, timer: Timer, budget_s: float, rng: np.random.Generator) -> Comparison:
    """Warm both arms up, then sample blocks (at least one) until the verdict is "ok" or the budget is spent."""
    start = timer.now()
    arms = (candidate, reference)
    repeats = warm_up(arms, timer, WARMUP_SHARE * budget_s)
    blocks: list[list[tuple[float, float, float]]] = []
    check_at = MIN_BLOCKS
    while True:
        began = timer.now()
        blocks.append(_block(arms, repeats, timer, rng))
        now = timer.now()
        out_of_time = now + (now - began) > start + budget_s
        if out_of_time or len(blocks) >= check_at:
            result = _summarize(blocks, now - start, rng)
            if out_of_time or result.verdict == "ok":
                return result
            check_at = len(blocks) * 5 // 4  # a bootstrap takes milliseconds: not after every block


def warm_up(arms: tuple[Call, Call], timer: Timer, budget_s: float) -> tuple[int, int]:
    """Run both arms until their times settle or the budget is spent; returns how many calls make a sample of each."""
    deadline = timer.now() + budget_s
    history = [[t.device_s] for t in timer.run(arms, (1, 1))]
    while timer.now() < deadline and not all(_settled(times) for times in history):
        repeats = [_repeats(times) for times in history]
        for times, timing in zip(history, timer.run(arms, repeats), strict=True):
            times.append(timing.device_s)
    return _repeats(history[0]), _repeats(history[1])


def _settled(times: list[float]) -> bool:
    if len(times) < 7:  # the first call of all is not a sample
        return False
    before, last = np.median(times[-6:-3]), np.median(times[-3:])
    return bool(abs(last - before) < SETTLED * last)


def _repeats(times: list[float]) -> int:
    return max(1, int(np.ceil(SAMPLE_S / max(float(np.median(times[-3:])), 1e-9))))


def _block(
    arms: tuple[Call, Call], repeats: tuple[int, int], timer: Timer, rng: np.random.Generator
) -> list[tuple[float, float, float]]:
    """One A B B A or B A A B block: two rows of (candidate, reference, candidate's host) seconds per call."""
    first = int(rng.integers(2))
    order = (first, 1 - first, 1 - first, first)
    timings = timer.run([arms[i] for i in order], [repeats[i] for i in order])
    own, other = ([t for i, t in zip(order, timings, strict=True) if i == arm] for arm in (0, 1))
    return [(a.device_s, b.device_s, a.host_s) for a, b in zip(own, other, strict=True)]


def _summarize(blocks: list[list[tuple[float, float, float]]], seconds: float, rng: np.random.Generator) -> Comparison:
    candidate_s, reference_s, host_s = np.moveaxis(np.asarray(blocks), 2, 0)
    return Comparison(
        candidate=median_interval(candidate_s.ravel(), rng),
        reference=median_interval(reference_s.ravel(), rng),
        ratio=ratio_interval(candidate_s, reference_s, rng),
        candidate_s=candidate_s,
        reference_s=reference_s,
        host_s=host_s,
        seconds=seconds,
    )
