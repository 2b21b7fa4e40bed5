"""The figure of the Pareto front for papers: throughput against score, with baselines and retrained models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from nas.numbers import plural_range
from nas.study.records import StudyRecord
from reports.figure_data import (
    BASELINE,
    FRONT,
    INFEASIBLE,
    MARKS,
    SERIES,
    STOPPED,
    CandidatePoint,
    FigureData,
    axis_range,
    prepare,
)
from reports.formatting import brief
from reports.paper_style import (
    AXES_HEIGHT_INCHES,
    AXES_WIDTH_INCHES,
    FRONT_HEIGHT_INCHES,
    MARK_POINTS,
    MAX_VECTOR_POINTS,
    MIN_FONT_POINTS,
    empty_figure,
    wrapped,
)
from reports.summary import summarize

HALO = [withStroke(linewidth=1.5, foreground="white")]
TICKS = (3.5, (1.0,)), (1.5, (1.0, 1.5)), (0.0, (1.0, 1.25, 1.5, 1.75))  # doublings that an axis exceeds: ticks in each
LABEL_PLACES = (  # offset in points, alignment there
    ((4, 3), ("left", "bottom")),
    ((5, -3), ("left", "top")),
    ((-4, -4), ("right", "top")),
    ((-4, 3), ("right", "bottom")),
    ((-5, 0), ("right", "center")),
    ((5, 0), ("left", "center")),
    ((0, 4), ("center", "bottom")),
    ((0, -4), ("center", "top")),
)
NamePlace = tuple[tuple[str, float], tuple[str, float]]
NAME_PLACES: tuple[NamePlace, ...] = tuple(  # side of the line and offset in points, end of the axes and height there
    (side, end) for end in (("bottom", 0.04), ("top", 0.96)) for side in (("right", -1.0), ("left", 1.0))
)
LEGEND_CHARACTERS = 20  # of a line in the left one of the legend's two columns
STEPS = 8  # points of a piece of the line behind that labels keep clear of
MARGIN = 0.03  # of the scores' range, above and below the retrained models


@dataclass(frozen=True)
class FrontAdditions:
    """What the figure of the front shows in addition to the study's own trials.

    Attributes:
        baselines: What the baselines are, for the legend.
        retraining: Results of retraining, as `reports.evidence_data.retraining_results` returns them.
        behind: Another study, whose front is drawn in gray.
    """

    baselines: str = BASELINE
    retraining: Mapping[str, Any] | None = None
    behind: StudyRecord | None = None

    @property
    def front_behind(self) -> list[tuple[float, float]]:
        """Return the (ratio, score) of each model on the other study's front, slowest first."""
        if self.behind is None:
            return []
        points = prepare(self.behind, summarize(self.behind)).points
        return sorted((p.ratio, p.score) for p in points if p.kind == FRONT and p.score is not None)


def front_figure(data: FigureData, retrained: Sequence[Mapping[str, Any]], additions: FrontAdditions) -> Figure | None:
    """Draw throughput against score, as the page's chart of the front does at first: without early-stopped candidates.

    A study without measurements, or with one objective, has no such figure.
    """
    points = [p for p in data.points if p.kind != STOPPED]
    if not points or data.single is not None:
        return None
    behind = additions.front_behind
    figure, axes = empty_figure(height_inches=FRONT_HEIGHT_INCHES)
    _scale_axes(axes, data, retrained, behind)
    others = [(r["ratio"], r["long"]) for r in retrained if r["ratio"] is not None]
    others += [(p.ratio, p.score) for p in points if p.kind not in (BASELINE, FRONT) and p.score is not None]
    if additions.behind is not None:
        others += _draw_behind(axes, behind, additions.behind.info.name)
    if data.staircase:
        (_, best), *corners, (fastest, _) = data.staircase
        x, y = zip((axes.get_xlim()[0], best), *corners, (fastest, axes.get_ylim()[0]), strict=True)
        axes.plot(x, y, drawstyle="steps-pre", color=MARKS[FRONT].paper, linewidth=1, alpha=0.8, zorder=2)
    for kind in MARKS:
        of_kind = [p for p in points if p.kind == kind]
        if of_kind:
            _draw_kind(axes, axes.get_ylim()[0], kind, of_kind, additions.baselines if kind == BASELINE else kind)
    _draw_retrained(axes, retrained, additions.retraining)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, handletextpad=0.1, columnspacing=1)
    corner = {"xycoords": "axes fraction", "ha": "right", "va": "top", "color": "0.4", "fontsize": MIN_FONT_POINTS}
    better = axes.annotate("better ↗", (0.99, 0.98), **corner)
    centers = [(p.number, p.ratio, p.score) for p in points if p.score is not None]
    centers += [(r["number"], r["ratio"], r["long"]) for r in retrained if r["ratio"] is not None]
    labeled = [p for kind in (BASELINE, FRONT) for p in points if p.kind == kind and p.label]
    marks = [(p.ratio, p.score) for p in points if p.kind in (BASELINE, FRONT) and p.score is not None]
    figure.draw_without_rendering()  # lays the figure out: the extents of texts are unknown before
    taken = [*_extents(figure, axes, [*marks, *others]), better.get_window_extent()]
    _draw_scale(axes, data, taken)
    _label(figure, axes, labeled, centers, taken)
    return figure


def _scale_axes(
    axes: Any, data: FigureData, retrained: Sequence[Mapping[str, Any]], behind: Sequence[tuple[float, float]]
) -> None:
    """Set the ranges, which include the retrained models and the front behind, and the titles."""
    (low, high), ratio_range = data.score_range, data.ratio_range
    if ratios := [*(row["ratio"] for row in retrained if row["ratio"] is not None), *(ratio for ratio, _ in behind)]:
        ratio_range = _united(ratio_range, ratios, data.throughput.log)
    if behind:
        low, high = _united((low, high), [score for _, score in behind])
    if retrained:
        ends = [row[end] for row in retrained for end in ("low", "high")]
        margin = MARGIN * (max(high, *ends) - min(low, *ends))  # a mark on the edge would be cut in half
        low, high = min(low, min(ends) - margin), max(high, max(ends) + margin)
    if data.throughput.log:
        axes.set_xscale("log", base=2)
        doublings = math.log2(ratio_range[1] / ratio_range[0])
        axes.xaxis.set_major_locator(LogLocator(2, subs=next(subs for above, subs in TICKS if doublings > above)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlim=ratio_range, ylim=(low, high))
    axes.set_xlabel(wrapped(data.throughput_title, AXES_WIDTH_INCHES))
    axes.set_ylabel(wrapped(data.score.label, AXES_HEIGHT_INCHES))


def _united(span: tuple[float, float], values: Sequence[float], log: bool = False) -> tuple[float, float]:
    """Return the range of an axis with that of further values."""
    if min(values) >= span[0] and max(values) <= span[1]:
        return span
    return axis_range([*span, *values], log)


def _draw_behind(axes: Any, places: Sequence[tuple[float, float]], name: str) -> list[tuple[float, float]]:
    """Draw the front of another study in gray, and return the places that its line and points take."""
    if not places:
        return []
    x, y = zip(*places, strict=True)
    line = {"color": "0.6", "linewidth": 1, "marker": "o", "markersize": 2, "zorder": 1.5}
    label = fill(f"front of {brief(name, 30)}", LEGEND_CHARACTERS)
    axes.plot(x, y, drawstyle="steps-pre", label=label, **line)
    pieces = [((a, b), (a, d), (c, d)) for (a, b), (c, d) in pairwise(places)]
    return [place for start, corner, end in pieces for place in (*_along(start, corner), *_along(corner, end))]


def _along(start: tuple[float, float], end: tuple[float, float]) -> list[tuple[float, float]]:
    """Return places along a piece of a line."""
    x, y = np.linspace(start, end, STEPS).T.tolist()
    return list(zip(x, y, strict=True))


def _draw_retrained(axes: Any, retrained: Sequence[Mapping[str, Any]], retraining: Mapping[str, Any] | None) -> None:
    """Draw the mean scores of the longer trainings at the ratios measured then, with 95 % intervals of both.

    Baselines have the mark that they have in the search, in the color of the longer trainings.
    """
    if retraining is None:
        return
    label: str | None = f"retrained, {retraining['steps']:,} steps, {_seeds(retraining)}"
    for kind, marker in (("retrained", "s"), ("baseline", MARKS[BASELINE].matplotlib_marker)):
        placed = [row for row in retrained if row["ratio"] is not None and row["kind"] == kind]
        if not placed:
            continue
        x, y = [row["ratio"] for row in placed], [row["long"] for row in placed]
        bars = {
            "xerr": [[r["ratio"] - r["ratio_low"] for r in placed], [r["ratio_high"] - r["ratio"] for r in placed]],
            "yerr": [[r["long"] - r["low"] for r in placed], [r["high"] - r["long"] for r in placed]],
        }
        look = {"fmt": marker, "color": SERIES[2][1], "markersize": MARK_POINTS, "elinewidth": 0.7, "zorder": 3.5}
        axes.errorbar(x, y, label=label, **bars, **look)
        label = None  # one entry in the legend for both


def _seeds(retraining: Mapping[str, Any]) -> str:
    return plural_range([len(c["scores"]) for c in retraining["candidates"] if c["scores"]], "seed")


def _draw_scale(axes: Any, data: FigureData, taken: list[Bbox]) -> None:
    """Draw a vertical line with a name for each comparison network; what the names cover joins `taken`."""
    for model in data.scale:
        if model.inside:
            axes.axvline(model.ratio, color="0.5", linestyle=":", linewidth=0.7, zorder=1)
            taken.append(_name_line(axes, model.name.removeprefix("timm:"), model.ratio, taken))


def _name_line(axes: Any, words: str, ratio: float, taken: Sequence[Bbox]) -> Bbox:
    """Write a name along the line at `ratio`, where it covers the fewest of `taken`, and return what it covers."""
    name = axes.annotate(words, (ratio, 0), (0, 0), xycoords=("data", "axes fraction"), textcoords="offset points")
    name.set(rotation=90, fontsize=MIN_FONT_POINTS, color="0.4", in_layout=False)
    covered = {}
    for place in NAME_PLACES:
        _place(name, place)
        extent = name.get_window_extent()
        outside = extent.x0 < axes.bbox.x0 or extent.x1 > axes.bbox.x1
        covered[place] = (outside, sum(extent.overlaps(other) for other in taken))
    _place(name, min(NAME_PLACES, key=lambda place: covered[place]))
    covers: Bbox = name.get_window_extent()
    return covers


def _place(name: Any, place: NamePlace) -> None:
    (side, offset), (end, height) = place
    name.xy = (name.xy[0], height)
    name.set(ha=side, va=end, position=(offset, 0))


def _extents(figure: Figure, axes: Any, marks: Sequence[tuple[float, float]]) -> list[Bbox]:
    """Return what marks cover, in pixels."""
    radius = figure.dpi * MARK_POINTS / 72 / 2
    centers = axes.transData.transform(marks) if marks else []
    return [Bbox.from_extents(x - radius, y - radius, x + radius, y + radius) for x, y in centers]


def _draw_kind(axes: Any, floor: float, kind: str, points: Sequence[CandidatePoint], label: str) -> None:
    """Draw the points of one kind with their intervals; untrained candidates lie on the lower edge, at `floor`."""
    style = MARKS[kind]
    y = [floor if p.score is None else p.score for p in points]
    x = [p.ratio for p in points]
    many = len(points) > MAX_VECTOR_POINTS
    if kind != INFEASIBLE:
        timed = [(at, p) for at, p in zip(y, points, strict=True) if p.ratio_low is not None]
        low, high = [p.ratio_low for _, p in timed], [p.ratio_high for _, p in timed]
        axes.hlines([at for at, _ in timed], low, high, color="0.6", linewidth=0.6, zorder=1, rasterized=many)
    cross = style.matplotlib_marker == "x"
    face = style.paper if style.filled or cross else "none"
    edge = {} if cross else {"edgecolors": style.paper}
    size = MARK_POINTS**2 / (4 if many else 1)
    marks = {"marker": style.matplotlib_marker, "c": face, "s": size, "linewidths": 0.7, **edge}
    axes.scatter(x, y, zorder=3, label=label, rasterized=many, clip_on=kind != INFEASIBLE, **marks)


def _distances(box: Bbox, places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance of each place from a box; 0 inside it."""
    beyond = np.maximum(np.maximum(box.min - places, places - box.max), 0.0)
    distances: NDArray[np.float64] = np.hypot(*beyond.T)
    return distances


def _label(
    figure: Figure,
    axes: Any,
    points: Sequence[CandidatePoint],
    centers: Sequence[tuple[int, float, float]],
    taken: list[Bbox],
) -> None:
    """Label the points where a label covers none of `taken`, which are marks and texts; crowded ones stay bare.

    A label stands nearer to its own mark than to those of all other trials.

    Args:
        figure: The figure.
        axes: Its axes.
        points: Those to label.
        centers: Trial, ratio and score of every mark; a retrained trial has two.
        taken: What no label may cover, in pixels; labels are added.
    """
    numbers = np.asarray([number for number, *_ in centers])
    places = axes.transData.transform([(x, y) for _, x, y in centers])
    for p in points:
        own = axes.transData.transform((p.ratio, p.score))
        foreign = places[numbers != p.number]
        for (dx, dy), (ha, va) in LABEL_PLACES:
            label = axes.annotate(p.label, (p.ratio, p.score), (dx, dy), textcoords="offset points", ha=ha, va=va)
            label.set(fontsize=MIN_FONT_POINTS, path_effects=HALO, zorder=4, in_layout=False)
            extent = label.get_window_extent()
            across = axes.bbox.x0 <= extent.x0 and extent.x1 <= figure.bbox.x1
            inside = across and axes.bbox.y0 <= extent.y0 and extent.y1 <= axes.bbox.y1
            nearest = _distances(extent, foreign).min(initial=math.inf) > _distances(extent, own[None])[0]
            if inside and nearest and not any(extent.overlaps(other) for other in taken):
                taken.append(extent)
                break
            label.remove()
