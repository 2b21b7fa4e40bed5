"""Judge a measurement: a verdict in a word, notes beside it, and the error of one that gives no number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nas.measure.conditions import Conditions
from nas.measure.statistics import Array, Interval

HALF_WIDTH = 0.01  # of the ratio's interval: certain enough
MIN_BLOCKS = 15  # 30 samples an arm before a result may be "ok"
WAITED = 0.05  # of the time without a core: over that, who else ran decided the number
BUSY_CORES = 0.2  # worth a note
LAUNCH_SHARE = 0.9  # host time over device time
CLOCK_CHANGE = 0.02
FEW_READINGS = 5  # under each arm; fewer say nothing
DRIFT = 0.02


class MeasurementError(RuntimeError):
    """A measurement that gives no number.

    `verdict` is "out of memory", "no samples", "crash", "hang", "wrong output" or "failed"; the message says more.
    """

    def __init__(self, verdict: str, message: str) -> None:
        super().__init__(message)
        self.verdict = verdict

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.verdict, str(self))


@dataclass(frozen=True)
class PairTimes:
    """Times of candidate and reference in the same blocks, in seconds per call.

    The raw samples are kept, so that a report can recompute everything.
    """

    candidate: Interval
    reference: Interval
    ratio: Interval  # reference time / candidate time of the same block: over 1, the candidate is faster
    candidate_s: Array  # (blocks, 2)
    reference_s: Array  # (blocks, 2)
    host_s: Array  # (blocks, 2), the candidate's
    candidate_spans: Array  # (2 * blocks, 2): when each sample began and ended, on the timer's clock
    reference_spans: Array
    seconds: float

    @property
    def enough(self) -> bool:
        """Whether there are samples enough for an "ok"."""
        return len(self.candidate_s) >= MIN_BLOCKS

    @property
    def verdict(self) -> str:
        """ "ok", or "wide" where samples are few or the ratio's interval is wider than plus or minus one percent.

        The candidate's own interval may stay wider: a machine that drifts moves both arms, and not their ratio.
        """
        return "ok" if self.enough and self.ratio.half_width < HALF_WIDTH else "wide"


def verdict(
    comparison: PairTimes,
    conditions: Conditions,
    *,
    correct: bool,
    complete: bool,
    launch_share: float,
) -> str:
    """Return the most serious verdict.

    In falling order: "wrong output", "out of memory" (a smaller batch was used), "contended", "throttled",
    "clock changed" (between the two networks, so that not even the ratio is fair), "launch-bound", "wide", "ok".

    Args:
        comparison: Times of candidate and reference.
        conditions: What the device's watch saw meanwhile.
        correct: Whether the candidate's outputs are those of fp32 eager.
        complete: Whether the requested batch fit into memory.
        launch_share: Host time over device time of the candidate.
    """
    waited = conditions.waited or 0.0
    checks = (
        ("wrong output", not correct),
        ("out of memory", not complete),
        ("contended", conditions.other_processes > 0 or waited > WAITED),
        ("throttled", bool(conditions.slowdowns)),
        ("clock changed", abs(clock_difference(comparison, conditions)) > CLOCK_CHANGE),
        ("launch-bound", launch_share > LAUNCH_SHARE),
    )
    return next((name for name, found in checks if found), comparison.verdict)


def notes(comparison: PairTimes, conditions: Conditions, tries: int = 1) -> tuple[str, ...]:
    """Return what else a reader should know, a phrase each."""
    phrases = [f"slowed down by {reason}, in {tries} tries" for reason in conditions.slowdowns]
    if conditions.other_processes:
        phrases.append(f"{conditions.other_processes} other process(es) computed on the card")
    if (conditions.waited or 0.0) > WAITED:
        phrases.append(f"had to wait for a core {conditions.waited:.0%} of the time")
    if (conditions.other_busy_cores or 0.0) > BUSY_CORES:
        phrases.append(f"others kept {conditions.other_busy_cores:.1f} cores busy")
    if conditions.power_capped:
        phrases.append(f"at the card's power cap {conditions.power_capped:.0%} of the time")
    if conditions.unknown:
        phrases.append(f"the card does not tell its {' and '.join(conditions.unknown)}")
    drift = drifted(comparison.reference_s)
    if abs(drift) > DRIFT:
        phrases.append(f"the machine became {abs(drift):.1%} {'slower' if drift > 0 else 'faster'} meanwhile")
    if comparison.verdict == "wide":
        phrases.append(_why_wide(comparison))
    return tuple(phrases)


def drifted(reference_s: Array) -> float:
    """Return how much longer the reference took in the last third than in the first: 0.02 is two percent."""
    times = reference_s.mean(axis=1)
    third = len(times) // 3
    return float(np.median(times[-third:]) / np.median(times[:third]) - 1) if third >= 3 else 0.0


def _why_wide(comparison: PairTimes) -> str:
    width, samples = comparison.ratio.half_width, comparison.candidate_s.size
    if not comparison.enough:
        return f"only {samples} samples in {comparison.seconds:.1f} s"
    needed_s = comparison.seconds * (width / HALF_WIDTH) ** 2
    return f"ratio to ±{width:.1%} after {samples} samples; ±{HALF_WIDTH:.0%} would take about {needed_s:.0f} s"


def clock_difference(comparison: PairTimes, conditions: Conditions) -> float:
    """Return how much faster the SM clock was under the candidate than the reference; 0.0 where it may be chance."""
    clocks = [(r.at_s, r.clock_mhz) for r in conditions.readings if r.clock_mhz is not None]
    readings = np.array(clocks, dtype=float).reshape(-1, 2)
    own, other = (_within(readings, spans) for spans in (comparison.candidate_spans, comparison.reference_spans))
    if min(len(own), len(other)) < FEW_READINGS:
        return 0.0
    error = (own.var() / len(own) + other.var() / len(other)) ** 0.5
    difference = float(own.mean() - other.mean())
    return difference / float(other.mean()) if abs(difference) > 3 * error else 0.0


def _within(readings: Array, spans: Array) -> Array:
    """Return the values of (time, value) readings that were taken within one of the (begin, end) spans."""
    at = readings[:, :1]
    inside: Array = readings[((spans[:, 0] <= at) & (at <= spans[:, 1])).any(axis=1), 1]
    return inside
