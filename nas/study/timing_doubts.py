"""Read stored verdicts back: which recorded timings have a usable interval, and why the others are doubtful.

No samples are needed. Terminal, report, card, pictures and exports all ask here. `nas.measure.verdicts` judges a
measurement while its samples are at hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from nas.numbers import fixed_interval, plural
from nas.study.records import Measurement

TOO_FEW, SCATTERED, CONTENDED = "too few samples", "scattered", "contended"
WRONG_OUTPUT = "wrong output"  # verdict of a timed graph that does not compute the model
DISTURBED = (CONTENDED, "throttled", "clock changed")  # verdicts that make even the intervals unreliable
LAUNCH_BOUND = "launch-bound"  # the speed is that of the CPU, which launches the kernels, however narrow its interval
DOUBTS = (*DISTURBED, LAUNCH_BOUND, TOO_FEW, SCATTERED)  # of which a measurement has the first that applies
MIN_INTERVAL_SAMPLES = 6  # blocks, or samples of a size in a sweep: fewer give no interval that can be trusted
# An interval that reaches farther than from half to twice its value says less than that of a single sample, which is
# given this reach. A widened interval of 6 disturbed blocks reached ±87119830 %.
MAX_INTERVAL_FACTOR = 2.0
Z_OF_INTERVAL = NormalDist().inv_cdf(0.975)  # half the width of a 95 % interval, in standard deviations
# Relative standard deviation of a ratio between processes that time the same network, beyond what the samples of each
# show: the middle of ten sets of 20 to 100 networks on a CPU (experiments.timing_repeats); no GPU was measured.
RUN_DEVIATION = 0.017
# The same of values that are not divided by the reference's: they change with the machine's speed, too.
THROUGHPUT_RUN_DEVIATION, LATENCY_RUN_DEVIATION = 0.06, 0.10
PUBLISHED = "published"  # the runtime that `backbone-nas replay` records for values of a table: nothing was timed


def usable(value: float, low: float, high: float) -> bool:
    """Return whether an interval says more of its value than a single sample would."""
    return value / MAX_INTERVAL_FACTOR <= low <= high <= value * MAX_INTERVAL_FACTOR


def interval_doubt(m: Measurement) -> str | None:
    """Return why a measurement has no usable interval of its ratio: "too few samples" or "scattered"; None if it has.

    A published value is exact.
    """
    if m.arm == PUBLISHED:
        return None
    if m.samples < 2 * MIN_INTERVAL_SAMPLES:  # a block has two samples
        return TOO_FEW
    return None if usable(m.ratio, m.ratio_low, m.ratio_high) else SCATTERED


def has_interval(m: Measurement) -> bool:
    """Return whether a measurement has a usable interval of its ratio."""
    return interval_doubt(m) is None


def timing_doubt(m: Measurement | None) -> str | None:
    """Return why a measurement's speeds cannot be trusted, one of `DOUBTS`; None for any other measurement."""
    return None if m is None else speed_doubt(m.verdict, interval_doubt(m))


def speed_doubt(verdict: str, no_interval: str | None) -> str | None:
    """Return why speeds cannot be trusted, one of `DOUBTS`; None if they can.

    Args:
        verdict: Their verdict.
        no_interval: Why they have no usable interval, see `interval_doubt`; None if they have one.
    """
    return verdict if verdict in (*DISTURBED, LAUNCH_BOUND) else no_interval


def no_interval(m: Measurement) -> str:
    """Say why a measurement has no usable interval: "interval not usable: 12 samples, contended"."""
    samples, doubt = f"{plural(m.samples, 'sample')}", timing_doubt(m) or SCATTERED
    return f"interval not usable: {f'only {samples}' if doubt == TOO_FEW else f'{samples}, {doubt}'}"


def ratio_interval_words(m: Measurement, digits: int) -> str:
    """Return the interval of a measurement's ratio, or why it is not usable."""
    return fixed_interval(m.ratio_low, m.ratio_high, digits) if has_interval(m) else no_interval(m)


def recorded_ratio_interval(m: Measurement) -> tuple[float, float] | None:
    """Return the interval of a measurement's ratio; None where it is not usable."""
    return (m.ratio_low, m.ratio_high) if has_interval(m) else None


def compared_ratio_interval(m: Measurement) -> tuple[float, float] | None:
    """Return the interval of a ratio that is compared with those of other processes; None where it is not usable."""
    return repeated_interval(m) if has_interval(m) else None


def bounded_interval(m: Measurement) -> tuple[float, float]:
    """Return the interval of a measurement's ratio, no wider than that of a single sample."""
    widest = m.ratio / MAX_INTERVAL_FACTOR, m.ratio * MAX_INTERVAL_FACTOR
    return min(max(m.ratio_low, widest[0]), m.ratio), max(min(m.ratio_high, widest[1]), m.ratio)


def repeated_interval(m: Measurement) -> tuple[float, float]:
    """Return the 95 % interval of a measurement's ratio over processes, for comparisons with other measurements.

    That of its own samples lacks what the next process changes (RUN_DEVIATION). A published value is exact.
    """
    if m.arm == PUBLISHED:
        return m.ratio_low, m.ratio_high
    return widened(m.ratio, bounded_interval(m))


def widened(value: float, ends: tuple[float, float], deviation: float = RUN_DEVIATION) -> tuple[float, float]:
    """Return a timing's 95 % interval over processes, given that of its own samples and the deviation between them."""
    between = Z_OF_INTERVAL * deviation
    below, above = (math.hypot(max(0.0, math.log(part)), between) for part in (value / ends[0], ends[1] / value))
    return value * math.exp(-below), value * math.exp(above)


def noise_floor(itself: Measurement | None) -> float:
    """Return the relative difference in throughput of two equal models.

    Args:
        itself: The reference measured against itself (A/A); without it, or without a usable interval of it, the floor
            is 0.
    """
    if itself is None or not has_interval(itself):
        return 0.0
    return max(itself.ratio_high, 1 / itself.ratio_low) - 1


def throughput_interval(m: Measurement) -> tuple[float, float] | None:
    """Return the interval of a measurement's images/s, which a drifting machine widens; None where none is usable."""
    ends = m.throughput_low_img_s, m.throughput_high_img_s
    return ends if has_interval(m) and usable(m.throughput_img_s, *ends) else None


def order_statistic_interval(samples: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the median, by order statistics (David and Nagaraja 2003, 7.1)."""
    n = len(samples)
    if n < MIN_INTERVAL_SAMPLES:
        return None
    inside = math.floor((n - Z_OF_INTERVAL * math.sqrt(n)) / 2)
    ordered = sorted(samples)
    return ordered[max(0, inside - 1)], ordered[min(n - 1, n - inside)]


def drawn_ends(m: Measurement) -> tuple[float, float]:
    """Return the ends of the bar that a picture draws for a ratio: the ratio itself where no interval is usable."""
    return (m.ratio_low, m.ratio_high) if has_interval(m) else (m.ratio, m.ratio)
