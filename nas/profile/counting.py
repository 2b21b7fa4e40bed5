"""Counting for people: a network that cannot take a size is one line, and what fusing saves is a counter of its own."""

from __future__ import annotations

from torch import nn

from nas.measure.counts import CounterResult, Counts, count
from nas.measure.counts.compare import amount


def checked_count(name: str, model: nn.Module, resolution: int) -> Counts:
    """`count`, with a ValueError of one line where the network cannot take the resolution."""
    try:
        return count(model, resolution)
    except (RuntimeError, AssertionError, ValueError) as error:  # timm's ways to say that a network is bound to a size
        summary = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"resolution: {name} cannot take {resolution} px: {summary}") from None


def fused_counter(macs: int, ours: int) -> CounterResult:
    """Ours again, of the deploy form that is timed: `macs` against those of the network as it is trained."""
    saved = ours - macs
    if not saved:
        return CounterResult(
            "ours, fused", macs, "the form that is timed; folding BatchNorm leaves the products as they are"
        )
    return CounterResult(
        "ours, fused", macs, f"the form that is timed: {amount(saved)} are constants there (position bias)"
    )
