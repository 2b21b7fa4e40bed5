"""The sides of points in a chart on which their labels cover least."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

Place = tuple[float, float]  # pixels to the right and upward
Box = tuple[float, float, float, float]  # left, right, bottom, top in pixels
Side = tuple[int, int]  # across: 1 right of the point, -1 left, 0 centered; upward: 1 above it, -1 below, 0 level

SIDES: tuple[Side, ...] = ((1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))  # the preferred first
OFFSET_PX = 8  # from the point to the beginning of its label, on both axes
LETTER_PX = 6.6, 13
GAP_PX = 6  # between two labels on one line
MARK_PX = 5  # half a point's width


def label_sides(
    labeled: Sequence[tuple[Place, str]],
    marks: Sequence[Place],
    line: Sequence[Place],
    width_px: float,
    important: int = 0,
) -> list[Side | None]:
    """Return each label's side: where it covers no label before it, and the fewest points and parts of the line.

    Args:
        labeled: place and label of each labeled point, the most important first.
        marks: places of all points.
        line: corners of the front's line, the slowest first. From each corner the line drops, then runs to the next.
        width_px: width of the chart; a side outside of it is the last choice.
        important: labels at the beginning that may cover points where they have no free side; the others may not.

    Returns:
        A side for each label; None where every side would cover a label before it, or a point.
    """
    lines, points = _line_boxes(line), [(x - MARK_PX, x + MARK_PX, y - MARK_PX, y + MARK_PX) for x, y in marks]
    taken: list[Box] = []
    sides: list[Side | None] = []
    for i, (place, label) in enumerate(labeled):
        boxes = {side: _label_box(place, label, side) for side in SIDES}
        covered = {side: _overlapping(box, points) for side, box in boxes.items() if not _overlapping(box, taken)}
        costs = {
            side: (not 0 <= boxes[side][0] <= boxes[side][1] <= width_px, marked + _overlapping(boxes[side], lines))
            for side, marked in covered.items()
            if not marked or i < important
        }
        best = min(costs, key=lambda side: costs[side], default=None)
        sides.append(best)
        taken += [_with_gaps(boxes[best])] if best else []
    return sides


def _line_boxes(corners: Sequence[Place]) -> list[Box]:
    return [
        box
        for (x, y), (next_x, next_y) in pairwise(corners)
        for box in ((x, x, min(y, next_y), max(y, next_y)), (x, next_x, next_y, next_y))
    ]


def _label_box(place: Place, label: str, side: Side) -> Box:
    width, right = LETTER_PX[0] * len(label), side[0]
    left = place[0] + right * OFFSET_PX - width * (1 - right) / 2
    middle = place[1] + label_rise(side)
    return left, left + width, middle - LETTER_PX[1] / 2, middle + LETTER_PX[1] / 2


def _with_gaps(box: Box) -> Box:
    left, right, bottom, top = box
    return left - GAP_PX, right + GAP_PX, bottom, top


def label_rise(side: Side) -> int:
    """Return the pixels from a point up to the middle of its label; a centered label must clear the mark."""
    return side[1] * (OFFSET_PX if side[0] else 2 * OFFSET_PX - 2)


def _overlapping(box: Box, others: Sequence[Box]) -> int:
    left, right, bottom, top = box
    return sum(left < r and right > a and bottom < t and top > b for a, r, b, t in others)
