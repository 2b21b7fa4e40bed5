"""What the tables say of a timing: its interval, and what a user can do about its verdict."""

from __future__ import annotations

from collections.abc import Iterable

from nas.study.timing_doubts import CONTENDED, LAUNCH_BOUND, SCATTERED, TOO_FEW

_COOLER = "cool the GPU, or lock its clocks, as by nvidia-smi --lock-gpu-clocks"


def remedy(verdict: str, seconds: float, graphs: bool = False) -> str | None:
    """Return what a user can do about a verdict; None where nothing needs to be done.

    Args:
        verdict: The verdict.
        seconds: Budget of the timing, whose double is the advice where a longer one helps.
        graphs: Whether another --runtime, with CUDA graphs, would help against slow launching.
    """
    longer = f"--measure-seconds {2 * seconds:g}"
    remedies = {
        TOO_FEW: f"measure a smaller batch, or longer, as with {longer}",
        SCATTERED: f"measure again on an idle machine, or longer, as with {longer}",
        "wide": f"a longer timing, as with {longer}, or an idle machine narrows the intervals",
        CONTENDED: "measure again on an idle machine",
        "throttled": _COOLER,
        "clock changed": _COOLER,
        LAUNCH_BOUND: "measure a larger batch"
        + (", or with --runtime reduce-overhead (CUDA graphs)" if graphs else ""),
    }
    return remedies.get(verdict)


def remedies(verdicts: Iterable[str], seconds: float, graphs: bool = False) -> list[str]:
    """Return a sentence for each different verdict that has a `remedy`, without its full stop."""
    found = {verdict: remedy(verdict, seconds, graphs) for verdict in verdicts}
    return [f"The verdict {verdict!r}: {words}" for verdict, words in found.items() if words]


def advice(verdicts: Iterable[str], seconds: float, graphs: bool = False) -> str:
    """Return the remedies as the end of a caption."""
    return "".join(f" {sentence}." for sentence in remedies(verdicts, seconds, graphs))


def interval(low: float, high: float) -> str:
    """Format a 95 % confidence interval of the median."""
    return f"[{low:.4g}, {high:.4g}]"


def half_width(value: float, ends: tuple[float, float] | None) -> str:
    """Format half the width of a value's interval as a share of the value; "" where none is usable."""
    return "" if ends is None else f"{(ends[1] - ends[0]) / 2 / value:.1%}"
