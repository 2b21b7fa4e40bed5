"""The report's figures for papers: the front and the hypervolume with matplotlib, from the same rows as the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from reports.points import BASELINE, FRONT, INFEASIBLE, LOOKS, FigureData, Point

LABEL_COLUMNS = 44  # of the upright axis' label: a figure is no higher
FORMATS = ("png", "svg", "pdf")
SIZE_INCHES = (6.4, 4.2)
DPI = 200
STYLE = {
    "text.parse_math": False,  # names may hold a "$"
    "svg.hashsalt": "reports",  # the same study gives the same file
    "font.size": 8.5,
}
BESIDE = (  # offset in points, and how the name is aligned there
    ((4, 3), ("left", "bottom")),
    ((5, -3), ("left", "top")),
    ((-4, -4), ("right", "top")),
    ((-4, 3), ("right", "bottom")),
)
MARK_POINTS = 5.0  # diameter
HALO = [withStroke(linewidth=1.5, foreground="white")]


def save_figures(data: FigureData, folder: Path) -> list[Path]:
    """Write front and hypervolume as PNG, SVG and PDF into `folder` (made if missing); the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with rc_context(STYLE):
        for name, figure in (("front", front_figure(data)), ("hypervolume", curve_figure(data))):
            for suffix in FORMATS:
                written.append(folder / f"{name}.{suffix}")
                figure.savefig(written[-1], dpi=DPI)
    return written


def front_figure(data: FigureData) -> Figure:
    """Throughput against quality, as in `figures.front_chart`."""
    figure, axes = _blank()
    if data.speed.log:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlim=data.ratio_range, ylim=data.quality_range)
    axes.set_xlabel(f"{data.speed.label} ({data.speed.unit}), higher is better")
    axes.set_ylabel(fill(f"{data.quality.label}, higher is better", LABEL_COLUMNS))
    if data.staircase:
        x, y = zip(*data.staircase, strict=True)
        axes.plot(x, y, drawstyle="steps-pre", color=LOOKS[FRONT].paper, linewidth=1.2, alpha=0.8, zorder=2)
    for kind in LOOKS:
        _kind(axes, data, kind)
    if data.reference_inside:
        axes.plot(
            data.speed.reference,
            data.quality.reference,
            "s",
            markerfacecolor="none",
            color="0.4",
            label="reference point",
        )
    if data.points:
        figure.legend(
            loc="outside upper center", ncols=6, fontsize=7, frameon=False, handletextpad=0.1, columnspacing=1
        )
    axes.annotate("better ↗", (0.985, 0.03), xycoords="axes fraction", ha="right", fontstyle="italic", color="0.4")
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
            name.set(fontsize=7, path_effects=HALO, zorder=4, in_layout=False)
            extent = name.get_window_extent()
            inside = axes.bbox.x0 <= extent.x0 and extent.x1 <= figure.bbox.x1 and extent.y1 <= axes.bbox.y1
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
    if kind != INFEASIBLE:
        axes.hlines(
            y, [p.ratio_low for p in points], [p.ratio_high for p in points], color="0.6", linewidth=0.8, zorder=1
        )
    face = look.paper if look.filled or look.plate_marker == "x" else "none"
    edge = {} if look.plate_marker == "x" else {"edgecolors": look.paper}
    axes.scatter(x, y, marker=look.plate_marker, s=22, c=face, linewidths=1, zorder=3, label=kind, **edge)


def curve_figure(data: FigureData) -> Figure:
    """Hypervolume by evaluations, as in `figures.curve_chart`."""
    figure, axes = _blank()
    axes.set_xlabel("architectures evaluated")
    axes.set_ylabel("hypervolume, higher is better")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if data.curve:
        axes.plot(
            [c[0] for c in data.curve], [c[2] for c in data.curve], drawstyle="steps-post", color=LOOKS[FRONT].paper
        )
    if data.baseline_hypervolume > 0:
        axes.axhline(data.baseline_hypervolume, color=LOOKS[BASELINE].paper, linestyle="--", linewidth=1)
        place = {"xycoords": ("axes fraction", "data"), "xytext": (0, -9), "textcoords": "offset points", "ha": "right"}
        level = (0.99, data.baseline_hypervolume)
        axes.annotate("baselines alone", level, fontsize=8, color=LOOKS[BASELINE].paper, **place)
    axes.set_ylim(bottom=0)
    return figure


def _blank() -> tuple[Figure, Any]:
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes
