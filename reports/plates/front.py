"""The front: throughput against quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from reports.plates.canvas import RASTERED, SMALL, blank, folded
from reports.points import BASELINE, FRONT, INFEASIBLE, LOOKS, FigureData, Point

BESIDE = (  # offset in points, and how the name is aligned there
    ((4, 3), ("left", "bottom")),
    ((5, -3), ("left", "top")),
    ((-4, -4), ("right", "top")),
    ((-4, 3), ("right", "bottom")),
)
MARK_POINTS = 3.5  # diameter
WIDE_INCHES, HIGH_INCHES = 3.0, 2.3  # of the axes
TICKS = (3.5, (1.0,)), (1.5, (1.0, 1.5)), (0.0, (1.0, 1.25, 1.5, 1.75))  # more than so many doublings: ticks in each
HALO = [withStroke(linewidth=1.5, foreground="white")]


def front_figure(data: FigureData) -> Figure | None:
    """Throughput against quality, as in `figures.front_chart`.

    None where no net was measured, or nets were searched for one objective.
    """
    if not data.points or data.single is not None:
        return None
    figure, (axes,) = blank(height=3.1)
    if data.speed.log:
        axes.set_xscale("log", base=2)
        between = next(
            subs for doublings, subs in TICKS if math.log2(data.ratio_range[1] / data.ratio_range[0]) > doublings
        )
        axes.xaxis.set_major_locator(LogLocator(2, subs=between))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlim=data.ratio_range, ylim=data.quality_range)
    unit = f" ({data.speed.unit})" if data.speed.unit else ""
    axes.set_xlabel(folded(f"{data.speed.label}{unit}", WIDE_INCHES))
    axes.set_ylabel(folded(data.quality.label, HIGH_INCHES))
    if data.staircase:
        x, y = zip(*data.staircase, strict=True)
        axes.plot(x, y, drawstyle="steps-pre", color=LOOKS[FRONT].paper, linewidth=1, alpha=0.8, zorder=2)
    for kind in LOOKS:
        _kind(axes, data, kind)
    if data.reference_inside:
        place = data.speed.reference, data.quality.reference
        axes.plot(*place, "s", markerfacecolor="none", color="0.4", markersize=4, label="reference point")
    figure.legend(loc="outside upper center", ncols=3, frameon=False, handletextpad=0.1, columnspacing=1)
    axes.annotate("better ↗", (0.99, 0.98), xycoords="axes fraction", ha="right", va="top", color="0.4", fontsize=SMALL)
    _label(figure, axes, [p for kind in (BASELINE, FRONT) for p in data.points if p.kind == kind and p.label])
    return figure


def _label(figure: Figure, axes: Any, points: Sequence[Point]) -> None:
    """Name the points, each beside its mark where that covers no other name or mark; nets too close stay unnamed."""
    figure.draw_without_rendering()  # the layout, or the names' extents are not known
    radius = figure.dpi * MARK_POINTS / 72 / 2
    marks = axes.transData.transform([(p.ratio, p.quality) for p in points]) if points else []
    taken = [Bbox.from_extents(x - radius, y - radius, x + radius, y + radius) for x, y in marks]
    for p in points:
        for (dx, dy), (ha, va) in BESIDE:
            name = axes.annotate(p.label, (p.ratio, p.quality), (dx, dy), textcoords="offset points", ha=ha, va=va)
            name.set(fontsize=SMALL, path_effects=HALO, zorder=4, in_layout=False)
            extent = name.get_window_extent()
            across = axes.bbox.x0 <= extent.x0 and extent.x1 <= figure.bbox.x1
            inside = across and axes.bbox.y0 <= extent.y0 and extent.y1 <= axes.bbox.y1
            if inside and not any(extent.overlaps(other) for other in taken):
                taken.append(extent)
                break
            name.remove()


def _kind(axes: Any, data: FigureData, kind: str) -> None:
    look = LOOKS[kind]
    points = [p for p in data.points if p.kind == kind]
    if not points:
        return
    bottom = data.quality_range[0] + 0.015 * (data.quality_range[1] - data.quality_range[0])
    y = [bottom if p.quality is None else p.quality for p in points]
    x = [p.ratio for p in points]
    crowd = len(points) > RASTERED
    if kind != INFEASIBLE:
        low, high = [p.ratio_low for p in points], [p.ratio_high for p in points]
        axes.hlines(y, low, high, color="0.6", linewidth=0.6, zorder=1, rasterized=crowd)
    face = look.paper if look.filled or look.plate_marker == "x" else "none"
    edge = {} if look.plate_marker == "x" else {"edgecolors": look.paper}
    size = MARK_POINTS**2 / (4 if crowd else 1)
    looks = {"marker": look.plate_marker, "c": face, "s": size, "linewidths": 0.7, **edge}
    axes.scatter(x, y, zorder=3, label=kind, rasterized=crowd, **looks)
