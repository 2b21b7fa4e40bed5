"""Judge a measurement while its samples and the device's readings are at hand.

The judgment is the verdict and the notes that are stored with the measurement. `nas.study.timing_doubts` reads them
back.
"""

from __future__ import annotations

import numpy as np

from nas.measure.conditions import HARDWARE_CAUSES, HARDWARE_SLOWDOWN, POWER_CAP, SLOWDOWNS, Conditions
from nas.measure.interleave import MAX_HALF_WIDTH, InterleavedSamples
from nas.measure.measurement_error import MeasurementError
from nas.measure.statistics import Array
from nas.numbers import plural
from nas.study.records import Measurement
from nas.study.timing_doubts import CONTENDED, LAUNCH_BOUND, SCATTERED, WRONG_OUTPUT

MAX_WAIT_SHARE = 0.05  # of the time without a core; above it, other processes decide the number
MAX_OTHER_GPU_SHARE = 0.05  # of the time in which others compute on the GPU; a screen takes about 0.01
# Of the readings with a reason for a lower clock, which are two at least: a single one may be that of a moment.
MAX_SLOWED_SHARE, MIN_SLOWED_READINGS = 0.05, 2
MAX_BUSY_CORES = 0.2  # of other processes, without a note
MAX_LAUNCH_SHARE = 0.9  # host time over device time
MAX_CLOCK_CHANGE = 0.02  # between candidate and reference, relative
MIN_READINGS = 5  # of the clock under each network, to compare them
MAX_DRIFT = 0.02  # of the reference's time, relative, without a note


def contended(conditions: Conditions, launch_share: float = 0.0) -> bool:
    """Return whether other processes used the device, or the process waited for a core too long.

    A GPU loses time by that wait only where it waits itself for the process to launch its kernels.

    Args:
        conditions: Conditions while times were taken.
        launch_share: Host time over device time, on a GPU.
    """
    needs_core = not conditions.readings or launch_share > MAX_LAUNCH_SHARE
    waited = needs_core and (conditions.wait_share or 0.0) > MAX_WAIT_SHARE
    share = conditions.other_gpu_share
    computed = conditions.other_processes > 0 and (share is None or share > MAX_OTHER_GPU_SHARE)
    return computed or waited


def slowdowns(conditions: Conditions) -> tuple[str, ...]:
    """Return the reasons for which heat or the board slowed the GPU down for a notable share of the time."""
    needed = max(MIN_SLOWED_READINGS, MAX_SLOWED_SHARE * len(conditions.readings))
    return tuple(name for bit, name in SLOWDOWNS.items() if conditions.readings_with(bit) >= needed)


def verdict(
    samples: InterleavedSamples,
    conditions: Conditions,
    *,
    correct: bool,
    complete: bool,
    launch_share: float,
) -> str:
    """Return the most serious verdict.

    From most to least serious: "wrong output", "out of memory" (a smaller batch was used), "contended", "throttled",
    "clock changed" (between the two networks, which makes even the ratio unfair), "launch-bound", "too few samples",
    "scattered", "wide", "ok".

    Args:
        samples: Times of candidate and reference.
        conditions: Conditions while the times were taken.
        correct: Whether the candidate's outputs are those of fp32 eager.
        complete: Whether the requested batch fit into memory.
        launch_share: Host time over device time, the larger of candidate's and reference's: both decide the ratio.
    """
    if not correct:
        return WRONG_OUTPUT
    if not complete:
        return "out of memory"
    return device_verdict(conditions, launch_share, clock_difference(samples, conditions) or 0.0) or samples.verdict


def require_right_outputs(m: Measurement) -> None:
    """Raise a MeasurementError for a measurement of a network whose outputs are wrong: it has no throughput."""
    if m.verdict == WRONG_OUTPUT:
        error = m.output_error
        raise MeasurementError(
            WRONG_OUTPUT, "not finite" if error is None else f"differs by {error:.2g} from fp32 eager"
        )


def device_verdict(conditions: Conditions, launch_share: float, clock_change: float = 0.0) -> str | None:
    """Return the most serious verdict on what the device did while times were taken; None where all was well.

    Args:
        conditions: Conditions while the times were taken.
        launch_share: Host time over device time.
        clock_change: Relative change of the clock between networks that are compared.
    """
    checks = (
        (CONTENDED, contended(conditions, launch_share)),
        ("throttled", bool(slowdowns(conditions))),
        ("clock changed", abs(clock_change) > MAX_CLOCK_CHANGE),
        (LAUNCH_BOUND, launch_share > MAX_LAUNCH_SHARE),
    )
    return next((name for name, failed in checks if failed), None)


def notes(
    samples: InterleavedSamples,
    conditions: Conditions,
    tries: int = 1,
    reference_launch_share: float = 0.0,
    single_launch_share: float = 0.0,
) -> tuple[str, ...]:
    """Return remarks on a measurement, a phrase each, for people who read its numbers.

    The candidate's launch share is in the measurement, so that only those of the reference and of a single image, which
    no verdict is about, have notes.
    """
    phrases = device_notes(conditions, tries)
    if reference_launch_share > MAX_LAUNCH_SHARE:
        phrases.append(
            f"the CPU needs {reference_launch_share:.0%} of the reference's device time to launch its kernels"
        )
    if single_launch_share > MAX_LAUNCH_SHARE:
        phrases.append(
            f"the CPU needs {single_launch_share:.0%} of a single image's device time to launch its kernels, and so "
            "decides the latency"
        )
    knows_clocks = conditions.readings and "clocks" not in conditions.unknown
    if knows_clocks and clock_difference(samples, conditions) is None:
        phrases.append("too few readings of the GPU's clock to compare it between candidate and reference")
    drift = reference_drift(samples.reference_s)
    if abs(drift) > MAX_DRIFT:
        phrases.append(
            f"the machine became {abs(drift):.1%} {'slower' if drift > 0 else 'faster'} during the measurement"
        )
    if samples.verdict != "ok":
        phrases.append(_why_not_ok(samples))
    return tuple(phrases)


def device_notes(conditions: Conditions, tries: int = 1) -> list[str]:
    """Return remarks on what the device did while times were taken, a phrase each."""
    reasons = slowdowns(conditions)
    phrases = [f"slowed down by {reason}, in {tries} tries" for reason in reasons]
    momentary = {name: conditions.readings_with(bit) for bit, name in SLOWDOWNS.items() if name not in reasons}
    momentary["a hardware slowdown of unknown cause"] = conditions.readings_with(HARDWARE_SLOWDOWN, HARDWARE_CAUSES)
    readings = len(conditions.readings)
    phrases += [f"{name} in {count} of {plural(readings, 'reading')}" for name, count in momentary.items() if count]
    if conditions.other_processes:
        phrases.append(_others(conditions))
    if (conditions.wait_share or 0.0) > MAX_WAIT_SHARE:
        phrases.append(f"waited for a core {conditions.wait_share:.0%} of the time")
    if (conditions.other_busy_cores or 0.0) > MAX_BUSY_CORES:
        phrases.append(f"other processes kept {conditions.other_busy_cores:.1f} cores busy")
    if conditions.contention_unknown:
        unseen = "this system does not report the wait for a core"
        if conditions.readings:
            unseen = "NVML does not show the work of this process on the GPU"
        phrases.append(f"{unseen}, so other work may give no verdict 'contended'")
    if capped := conditions.readings_with(POWER_CAP):
        phrases.append(f"at the GPU's power cap {capped / len(conditions.readings):.0%} of the time")
    if conditions.unknown:
        phrases.append(f"the GPU does not report its {' and '.join(conditions.unknown)}")
    return phrases


def _others(conditions: Conditions) -> str:
    share, number = conditions.other_gpu_share, conditions.other_processes
    processes = f"{number} other process{'es' * (number > 1)}"
    if share is None:
        return f"{processes} on the GPU, whose driver does not report whether they compute"
    return f"{processes} computed on the GPU, {share:.1%} of the time"


def reference_drift(reference_s: Array) -> float:
    """Return the reference's relative change of time from the first third to the last: 0.02 is two percent slower."""
    times = reference_s.mean(axis=1)
    third = len(times) // 3
    return float(np.median(times[-third:]) / np.median(times[:third]) - 1) if third >= 3 else 0.0


def _why_not_ok(samples: InterleavedSamples) -> str:
    width, size = samples.ratio.half_width, samples.candidate_s.size
    if samples.verdict == SCATTERED:
        return f"{size} samples in {samples.seconds:.1f} s scatter too much for an interval"
    if not samples.enough:
        return f"only {plural(size, 'sample')} in {samples.seconds:.1f} s"
    needed_s = samples.seconds * (width / MAX_HALF_WIDTH) ** 2
    reached = f"ratio to ±{width:.1%} after {plural(size, 'sample')}"
    return f"{reached}; ±{MAX_HALF_WIDTH:.0%} would take about {needed_s:.0f} s"


def clock_difference(samples: InterleavedSamples, conditions: Conditions) -> float | None:
    """Return the SM clock's relative excess under the candidate over the reference.

    It is 0.0 where it may be chance, and None where the readings are too few.
    """
    clocks = [(r.at_s, r.clock_mhz) for r in conditions.readings if r.clock_mhz is not None]
    readings = np.array(clocks, dtype=float).reshape(-1, 2)
    candidate, reference = (_within(readings, spans) for spans in (samples.candidate_spans, samples.reference_spans))
    if min(len(candidate), len(reference)) < MIN_READINGS:
        return None
    error = (candidate.var() / len(candidate) + reference.var() / len(reference)) ** 0.5
    difference = float(candidate.mean() - reference.mean())
    return difference / float(reference.mean()) if abs(difference) > 3 * error else 0.0


def _within(readings: Array, spans: Array) -> Array:
    """Return the values of the (time, value) readings whose time lies within one of the (begin, end) spans."""
    at = readings[:, :1]
    inside: Array = readings[((spans[:, 0] <= at) & (at <= spans[:, 1])).any(axis=1), 1]
    return inside
