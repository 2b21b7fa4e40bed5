"""Place names next to points, clear of other names and points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.transforms import Bbox

SIZE = 7.5
POINT_PX = 6.0  # half the side of the square that a point is taken to cover
# (x, y) offsets in points with their alignments, best first.
PLACES = [
    *((6 * r, 0, "left", "center") for r in (1,)),
    *((0, 7 * r, "center", "bottom") for r in (1,)),
    *((0, -7 * r, "center", "top") for r in (1,)),
    *((-6 * r, 0, "right", "center") for r in (1,)),
    *((6 * r, 8 * r, "left", "bottom") for r in (1, 2, 3)),
    *((6 * r, -8 * r, "left", "top") for r in (1, 2, 3)),
    *((-6 * r, 8 * r, "right", "bottom") for r in (1, 2, 3)),
    *((-6 * r, -8 * r, "right", "top") for r in (1, 2, 3)),
]


def label_points(
    axes: Any, points: Sequence[tuple[float, float, str]], whiskers: Sequence[tuple[float, float]] = ()
) -> None:
    """Write each point's name next to it. Call this when limits and scales are final.

    Args:
        axes: of the points.
        points: (x, y, name) in data coordinates.
        whiskers: lowest and highest y of each point's error bar, which names avoid too.
    """
    figure = axes.figure
    figure.draw_without_rendering()  # a constrained layout moves the axes
    renderer = figure.canvas.get_renderer()
    taken = [_around(axes.transData.transform((x, y))) for x, y, _ in points]
    taken += [
        Bbox(axes.transData.transform([(x, low), (x, high)])).padded(1)
        for (x, _, _), (low, high) in zip(points, whiskers, strict=False)
    ]
    inside = axes.get_window_extent(renderer)
    for x, y, name in points:
        best = None
        for dx, dy, across, up in PLACES:
            text = axes.annotate(name, (x, y), (dx, dy), textcoords="offset points", ha=across, va=up, fontsize=SIZE)
            text.set_in_layout(False)
            box = text.get_window_extent(renderer)
            cost = sum(_overlap(box, other) for other in taken) + 10 * (_area(box) - _overlap(box, inside))
            if best is None or cost < best[0] - 1:
                if best is not None:
                    best[1].remove()
                best = (cost, text, box)
            else:
                text.remove()
            if cost == 0:
                break
        assert best is not None
        taken.append(best[2])


def _around(center: Any) -> Bbox:
    x, y = center
    return Bbox.from_extents(x - POINT_PX, y - POINT_PX, x + POINT_PX, y + POINT_PX)


def _area(box: Bbox) -> float:
    return float(box.width * box.height)


def _overlap(a: Bbox, b: Bbox) -> float:
    both = Bbox.intersection(a, b)
    return 0.0 if both is None else _area(both)
