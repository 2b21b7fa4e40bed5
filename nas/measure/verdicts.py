"""What a measurement is worth, in a word, and what else has to be said about it. Pure."""

from __future__ import annotations

import numpy as np

from nas.measure.conditions import Conditions
from nas.measure.interleave import HALF_WIDTH, Comparison
from nas.measure.statistics import Array

WAITED = 0.05  # of the time without a core: over that, who else ran decided the number
BUSY_CORES = 0.2  # worth a note
LAUNCH_SHARE = 0.9  # host time over device time
CLOCK_CHANGE = 0.02
FEW_READINGS = 5  # under each arm; fewer say nothing
DRIFT = 0.02


def verdict(
    comparison: Comparison,
    conditions: Conditions,
    *,
    correct: bool,
    complete: bool,
    launch_share: float,
) -> str:
    """The most serious thing to say: "wrong output", "out of memory" (a smaller batch was used), "contended",
    "throttled", "clock changed" (between the arms, so that not even the ratio is fair), "launch-bound", "wide", "ok".

    launch_share: host time over device time of the candidate.
    """
    waited = conditions.waited or 0.0
    checks = (
        ("wrong output", not correct),
        ("out of memory", not complete),
        ("contended", conditions.strangers > 0 or waited > WAITED),
        ("throttled", bool(conditions.slowdowns)),
        ("clock changed", abs(clock_difference(comparison, conditions)) > CLOCK_CHANGE),
        ("launch-bound", launch_share > LAUNCH_SHARE),
    )
    return next((name for name, found in checks if found), comparison.verdict)


def notes(comparison: Comparison, conditions: Conditions, tries: int = 1) -> tuple[str, ...]:
    """What a reader should know beside the verdict, a phrase each."""
    said = [f"slowed down by {reason}, in {tries} tries" for reason in conditions.slowdowns]
    if conditions.strangers:
        said.append(f"{conditions.strangers} other process(es) computed on the card")
    if (conditions.waited or 0.0) > WAITED:
        said.append(f"had to wait for a core {conditions.waited:.0%} of the time")
    if (conditions.others_cores or 0.0) > BUSY_CORES:
        said.append(f"others kept {conditions.others_cores:.1f} cores busy")
    if conditions.power_capped:
        said.append(f"at the card's power cap {conditions.power_capped:.0%} of the time")
    if conditions.unknown:
        said.append(f"the card does not tell its {' and '.join(conditions.unknown)}")
    drift = drifted(comparison.reference_s)
    if abs(drift) > DRIFT:
        said.append(f"the machine became {abs(drift):.1%} {'slower' if drift > 0 else 'faster'} meanwhile")
    if comparison.verdict == "wide":
        said.append(_why_wide(comparison))
    return tuple(said)


def drifted(reference_s: Array) -> float:
    """How much longer the reference took in the last third than in the first: 0.02 is two percent."""
    times = reference_s.mean(axis=1)
    third = len(times) // 3
    return float(np.median(times[-third:]) / np.median(times[:third]) - 1) if third >= 3 else 0.0


def _why_wide(comparison: Comparison) -> str:
    width, samples = comparison.ratio.half_width, comparison.candidate_s.size
    if not comparison.enough:
        return f"only {samples} samples in {comparison.seconds:.1f} s"
    needed_s = comparison.seconds * (width / HALF_WIDTH) ** 2
    return f"ratio to ±{width:.1%} after {samples} samples; ±{HALF_WIDTH:.0%} would take about {needed_s:.0f} s"


def clock_difference(comparison: Comparison, conditions: Conditions) -> float:
    """How much faster the SM clock was under the candidate than under the reference; 0.0 where it may be chance."""
    told = [(r.at_s, r.clock_mhz) for r in conditions.readings if r.clock_mhz is not None]
    readings = np.array(told, dtype=float).reshape(-1, 2)
    own, other = (_within(readings, spans) for spans in (comparison.candidate_spans, comparison.reference_spans))
    if min(len(own), len(other)) < FEW_READINGS:
        return 0.0
    error = (own.var() / len(own) + other.var() / len(other)) ** 0.5
    difference = float(own.mean() - other.mean())
    return difference / float(other.mean()) if abs(difference) > 3 * error else 0.0


def _within(readings: Array, spans: Array) -> Array:
    """The values of (time, value) readings that were taken within one of the (begin, end) spans."""
    at = readings[:, :1]
    inside: Array = readings[((spans[:, 0] <= at) & (at <= spans[:, 1])).any(axis=1), 1]
    return inside
