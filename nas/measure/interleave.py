"""The protocol: two arms timed in random A B B A order until the answer is certain enough. Knows no network.

Sequential timing calls two identical nets different as soon as the machine drifts; paired ratios do not (see tests).
"""

from __future__ import annotations

import numpy as np

from nas.measure.statistics import Array, median_interval, ratio_interval
from nas.measure.timers import Call, Timer
from nas.measure.verdicts import MIN_BLOCKS, MeasurementError, PairTimes

SAMPLE_S = 0.005  # one sample lasts at least this long, so that the clock's grain and a call's overhead vanish in it
SETTLED = 0.03  # warm-up ends when medians of three samples change less than this ...
WARMUP_SHARE = 0.2  # ... or at this share of the budget


def compare(
    candidate: Call,
    reference: Call,
    timer: Timer,
    budget_s: float,
    rng: np.random.Generator,
    lead_in: bool = False,
) -> PairTimes:
    """Warm both arms up, then sample blocks (at least one) until the verdict is "ok" or the budget is spent.

    lead_in: one call that is not timed whenever the arm changes, for runtimes that leave threads or caches to the next.
    """
    start = timer.now()
    arms = (candidate, reference)
    repeats = warm_up(arms, timer, WARMUP_SHARE * budget_s)
    blocks: list[Array] = []
    check_at = MIN_BLOCKS
    while True:
        began = timer.now()
        blocks.append(_block(arms, repeats, timer, rng, lead_in))
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
    if not all(times[0] > 0 for times in history):
        raise MeasurementError("no samples", "the clock saw no time pass")
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
    arms: tuple[Call, Call], repeats: tuple[int, int], timer: Timer, rng: np.random.Generator, lead_in: bool
) -> Array:
    """One A B B A or B A A B block: two rows of (device, host, begin, end) seconds for each arm, (2, 2, 4).

    Device and host times are of a call, begin and end of a sample. Queued work runs one sample after the other.
    """
    first = int(rng.integers(2))
    order = (first, 1 - first, 1 - first, first)
    turns: list[tuple[int, int, bool]] = []  # arm, calls, whether it is a sample
    for arm in order:
        if lead_in and (not turns or turns[-1][0] != arm):
            turns.append((arm, 1, False))
        turns.append((arm, repeats[arm], True))
    end = timer.now()
    rows: list[list[tuple[float, ...]]] = [[], []]
    timings = timer.run([arms[arm] for arm, _, _ in turns], [calls for _, calls, _ in turns])
    for (arm, calls, sample), timing in zip(turns, timings, strict=True):
        began, end = end, end + timing.device_s * calls
        if sample:
            rows[arm].append((timing.device_s, timing.host_s, began, end))
    return np.asarray(rows)


def _summarize(blocks: list[Array], seconds: float, rng: np.random.Generator) -> PairTimes:
    candidate, reference = np.stack(blocks, axis=1)  # (blocks, 2, 4) each
    if not (np.all(candidate[..., 0] > 0) and np.all(reference[..., 0] > 0)):
        raise MeasurementError("no samples", "the clock saw no time pass")
    return PairTimes(
        candidate=median_interval(candidate[..., 0].ravel(), rng),
        reference=median_interval(reference[..., 0].ravel(), rng),
        ratio=ratio_interval(candidate[..., 0], reference[..., 0], rng),
        candidate_s=candidate[..., 0],
        reference_s=reference[..., 0],
        host_s=candidate[..., 1],
        candidate_spans=candidate[..., 2:].reshape(-1, 2),
        reference_spans=reference[..., 2:].reshape(-1, 2),
        seconds=seconds,
    )
