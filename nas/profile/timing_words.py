"""What the tables say of a timing: its interval, and what a user can do about its verdict."""

from __future__ import annotations

from collections.abc import Iterable

from nas.study.timing_doubts import CONTENDED, SCATTERED, TOO_FEW

_COOLER = "cool the GPU, or lock its clocks, as by nvidia-smi --lock-gpu-clocks"
# What a user can do about a verdict.
REMEDIES = {
    TOO_FEW: "measure longer, as with --measure-seconds 30, or a smaller batch",
    SCATTERED: "measure again on an idle machine, or longer, as with --measure-seconds 30",
    "wide": "a longer --measure-seconds or an idle machine narrows the intervals",
    CONTENDED: "measure again on an idle machine",
    "throttled": _COOLER,
    "clock changed": _COOLER,
    "launch-bound": "measure a larger batch, or with --runtime reduce-overhead (CUDA graphs)",
}


def remedies(verdicts: Iterable[str]) -> list[str]:
    """Return a sentence for each different verdict that a user can do something about, without its full stop."""
    return [f"The verdict {each!r}: {REMEDIES[each]}" for each in dict.fromkeys(verdicts) if each in REMEDIES]


def advice(verdicts: Iterable[str]) -> str:
    """Return the remedies as the end of a caption."""
    return "".join(f" {remedy}." for remedy in remedies(verdicts))


def interval(low: float, high: float) -> str:
    """Format a 95 % confidence interval of the median."""
    return f"[{low:.4g}, {high:.4g}]"


def half_width(value: float, ends: tuple[float, float] | None) -> str:
    """Format half the width of a value's interval as a share of the value; "" where none is usable."""
    return "" if ends is None else f"{(ends[1] - ends[0]) / 2 / value:.1%}"
