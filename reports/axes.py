"""Where the front's picture begins and ends, and the line that says what is dominated there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from reports.summary import Scored


def axis_range(values: Sequence[float], reference: float, log: bool = False) -> tuple[tuple[float, float], bool]:
    """Axis range with a margin, and whether it holds the reference, which may lie too far off to be drawn."""
    if log:
        (low, high), inside = axis_range([math.log2(v) for v in values], math.log2(reference))
        return (2**low, 2**high), inside
    low, high = min(values, default=reference), max(values, default=reference + 1)
    span = max(high - low, 0.05)
    inside = low - span <= reference <= high + span
    if inside:
        low, high = min(low, reference), max(high, reference)
    margin = 0.06 * max(high - low, 0.05)
    return (low - margin, high + margin), inside


def attainment_line(front: Iterable[Scored], ratio: float, quality: float) -> tuple[tuple[float, float], ...]:
    """The front's attainment line for a step that drops before the next point; closed towards the reference."""
    points = sorted((s.ratio, s.quality) for s in front)
    if not points:
        return ()
    start, end = (min(ratio, points[0][0]), points[0][1]), (points[-1][0], min(quality, points[-1][1]))
    return (start, *points, end)
