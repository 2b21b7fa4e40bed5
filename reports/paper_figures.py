"""The report's figures for papers, one column wide, by matplotlib: PDF, PNG and SVG with the numbers of the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from nas.numbers import plural_range
from nas.study.records import StudyRecord
from nas.terminal import visible
from reports.figure_data import (
    BASELINE,
    DOMINATED,
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
from reports.importance import Importance, importances
from reports.retraining import retraining_points
from reports.scored_trials import objective_words
from reports.sentences import baseline_kind
from reports.summary import CurvePoint, StudySummary, summarize

COLUMN_INCHES = 3.5  # of a page in two columns
HEIGHT_INCHES, FRONT_HEIGHT_INCHES, PANEL_HEIGHT_INCHES = 2.7, 3.1, 2.1
CHOICE_INCHES, FRAME_INCHES = 0.19, 0.95  # of the importance figure: height of a row, and of all else
AXES_WIDTH_INCHES, AXES_HEIGHT_INCHES = 3.0, 2.3
DPI = 300
NOTEBOOK_DPI = 160
MIN_FONT_POINTS = 7.0
MARK_POINTS = 3.5  # diameter
# No file holds a date or the version of its writer, so that the same study gives the same bytes.
FORMATS: dict[str, dict[str, str | None]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}
STYLE = {
    "text.parse_math": False,  # names may contain a "$"
    "svg.hashsalt": "reports",
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": MIN_FONT_POINTS,
    "ytick.labelsize": MIN_FONT_POINTS,
    "legend.fontsize": MIN_FONT_POINTS,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}
HALO = [withStroke(linewidth=1.5, foreground="white")]
MARKERS = ("o", "D", "s", "^", "v", "P")
MAX_VECTOR_POINTS = 2000  # of a kind; more are rasterized even in PDF and SVG, or the file would be heavy
CHARACTERS_PER_INCH = 15  # of an axis label
TICKS = (3.5, (1.0,)), (1.5, (1.0, 1.5)), (0.0, (1.0, 1.25, 1.5, 1.75))  # doublings that an axis exceeds: ticks in each
LABEL_PLACES = (  # offset in points, alignment there
    ((4, 3), ("left", "bottom")),
    ((5, -3), ("left", "top")),
    ((-4, -4), ("right", "top")),
    ((-4, 3), ("right", "bottom")),
)
LEGEND_CHARACTERS = 20  # of a line in the left one of the legend's two columns
STEPS = 8  # points of a piece of the line behind that labels keep clear of
MARGIN = 0.03  # of the scores' range, above and below the retrained models
MAX_PANELS = 3  # rungs next to the last; more panels are too narrow to read
MIN_MODELS = 3  # in a panel
MAX_CHOICES = 12


@dataclass(frozen=True)
class ProgressAxis:
    """The horizontal axis of a figure of the hypervolume."""

    label: str
    value: Callable[[CurvePoint], float | None]


PROGRESS = {
    "hypervolume": ProgressAxis("architectures trained", lambda point: point.evaluations),
    "hypervolume-steps": ProgressAxis("training steps, all architectures", lambda point: point.steps),
    "hypervolume-seconds": ProgressAxis("seconds since the search began", lambda point: point.seconds),
}


@dataclass(frozen=True)
class FrontAdditions:
    """What the figure of the front shows in addition to the study's own trials.

    Attributes:
        baselines: What the baselines are, for the legend.
        retraining: Results of retraining, as `reports.retraining.retraining_results` returns them.
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


def draw(
    study: StudyRecord,
    summary: StudySummary,
    retraining: Mapping[str, Any] | None = None,
    behind: StudyRecord | None = None,
) -> dict[str, Figure | None]:
    """Draw the figures by file name; a figure without data is None.

    Args:
        study: records of the study.
        summary: numbers of the study.
        retraining: results, as `reports.retraining.retraining_results` returns them; drawn with error bars.
        behind: another study, whose front is drawn in gray behind the front of this one.
    """
    data = prepare(study, summary)
    additions = FrontAdditions(baseline_kind(study.info), retraining, behind)
    with rc_context(STYLE):
        return {
            "front": _front_figure(data, retraining_points(study, retraining), additions),
            **{name: _progress_figure(summary, axis, data.curve_label) for name, axis in PROGRESS.items()},
            "rungs": _rung_figure(study, summary),
            "importance": _importance_figure(importances(study.info, summary), objective_words(study.info)),
        }


def draw_front(study: StudyRecord, summary: StudySummary) -> Figure | None:
    """Draw the Pareto front alone; None for a study without measurements, or with one objective."""
    with rc_context(STYLE):
        return _front_figure(prepare(study, summary), [], FrontAdditions(baseline_kind(study.info)))


def save(figures: Mapping[str, Figure | None], folder: Path) -> list[Path]:
    """Write the figures into `folder` and return the paths; the same study gives the same bytes.

    Args:
        figures: as `draw` returns them.
        folder: is created if it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with rc_context(STYLE):
        for name, figure in figures.items():
            if figure is None:
                continue
            for suffix, metadata in FORMATS.items():
                written.append(folder / f"{name}.{suffix}")
                figure.savefig(written[-1], dpi=DPI, metadata=metadata)
    return written


class PaperFigure(Figure):
    """A figure that a notebook shows as a picture, whether or not pyplot is imported there."""

    def savefig(self, fname: Any, **settings: Any) -> None:
        """Write the figure; an SVG with a control character of a study's text would be no XML."""
        for text in self.findobj(Text):
            text.set_text(visible(text.get_text()))  # type: ignore[attr-defined]
        super().savefig(fname, **settings)

    def _repr_png_(self) -> bytes:
        content = BytesIO()
        with rc_context(STYLE):
            self.savefig(content, format="png", dpi=NOTEBOOK_DPI, metadata=FORMATS["png"])
        return content.getvalue()


def _empty_figure(columns: int = 1, height_inches: float = HEIGHT_INCHES) -> tuple[Figure, list[Any]]:
    """Create a figure of one column's width with `columns` axes side by side."""
    figure = PaperFigure(figsize=(COLUMN_INCHES, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, panels


def _wrapped(label: str, inches: float) -> str:
    return fill(label, int(inches * CHARACTERS_PER_INCH))


def _front_figure(data: FigureData, retrained: Sequence[Mapping[str, Any]], additions: FrontAdditions) -> Figure | None:
    """Draw throughput against score, as the page's chart of the front does at first: without early-stopped candidates.

    A study without measurements, or with one objective, has no such figure.
    """
    points = [p for p in data.points if p.kind != STOPPED]
    if not points or data.single is not None:
        return None
    behind = additions.front_behind
    figure, (axes,) = _empty_figure(height_inches=FRONT_HEIGHT_INCHES)
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
    names = _draw_scale(axes, data)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, handletextpad=0.1, columnspacing=1)
    corner = {"xycoords": "axes fraction", "ha": "right", "va": "top", "color": "0.4", "fontsize": MIN_FONT_POINTS}
    axes.annotate("better ↗", (0.99, 0.98), **corner)
    labeled = [p for kind in (BASELINE, FRONT) for p in points if p.kind == kind and p.label]
    _label(figure, axes, labeled, others, names)
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
    axes.set_xlabel(_wrapped(data.throughput_title, AXES_WIDTH_INCHES))
    axes.set_ylabel(_wrapped(data.score.label, AXES_HEIGHT_INCHES))


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
    """Draw the mean scores of the longer trainings at the ratios measured then, with 95 % intervals of both."""
    placed = [row for row in retrained if row["ratio"] is not None]
    if retraining is None or not placed:
        return
    x, y = [row["ratio"] for row in placed], [row["long"] for row in placed]
    bars = {
        "xerr": [[r["ratio"] - r["ratio_low"] for r in placed], [r["ratio_high"] - r["ratio"] for r in placed]],
        "yerr": [[r["long"] - r["low"] for r in placed], [r["high"] - r["long"] for r in placed]],
    }
    look = {"fmt": "s", "color": SERIES[2][1], "markersize": MARK_POINTS, "elinewidth": 0.7, "zorder": 3.5}
    axes.errorbar(x, y, label=f"retrained, {retraining['steps']:,} steps, {_seeds(retraining)}", **bars, **look)


def _seeds(retraining: Mapping[str, Any]) -> str:
    return plural_range([len(c["scores"]) for c in retraining["candidates"] if c["scores"]], "seed")


def _draw_scale(axes: Any, data: FigureData) -> list[Text]:
    """Draw a vertical line with a name for each known network measured for scale; return the names."""
    names = []
    for model in data.scale:
        if model.inside:
            axes.axvline(model.ratio, color="0.5", linestyle=":", linewidth=0.7, zorder=1)
            place = {"xycoords": ("data", "axes fraction"), "xytext": (-1, 0), "textcoords": "offset points"}
            name = axes.annotate(model.name, (model.ratio, 0.04), **place)
            name.set(rotation=90, ha="right", va="bottom", fontsize=MIN_FONT_POINTS, color="0.4", in_layout=False)
            names.append(name)
    return names


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


def _label(
    figure: Figure,
    axes: Any,
    points: Sequence[CandidatePoint],
    others: Sequence[tuple[float, float]],
    names: Sequence[Text],
) -> None:
    """Label the points where a label covers no text and no mark, also of `others`; crowded ones stay bare."""
    figure.draw_without_rendering()  # lays the figure out: the extents of texts are unknown before
    radius = figure.dpi * MARK_POINTS / 72 / 2
    marks = axes.transData.transform([*((p.ratio, p.score) for p in points), *others]) if points else []
    taken = [Bbox.from_extents(x - radius, y - radius, x + radius, y + radius) for x, y in marks]
    taken += [name.get_window_extent() for name in names]
    for p in points:
        for (dx, dy), (ha, va) in LABEL_PLACES:
            label = axes.annotate(p.label, (p.ratio, p.score), (dx, dy), textcoords="offset points", ha=ha, va=va)
            label.set(fontsize=MIN_FONT_POINTS, path_effects=HALO, zorder=4, in_layout=False)
            extent = label.get_window_extent()
            across = axes.bbox.x0 <= extent.x0 and extent.x1 <= figure.bbox.x1
            inside = across and axes.bbox.y0 <= extent.y0 and extent.y1 <= axes.bbox.y1
            if inside and not any(extent.overlaps(other) for other in taken):
                taken.append(extent)
                break
            label.remove()


def _progress_figure(summary: StudySummary, axis: ProgressAxis, what: str) -> Figure | None:
    """Draw the hypervolume in steps, and the level of the baselines; None where it never rises above 0."""
    reached = [(x, c.hypervolume) for c in summary.curve if (x := axis.value(c)) is not None]
    if not any(volume > 0 for _, volume in reached):
        return None
    baselines = summary.baseline_hypervolume
    figure, (axes,) = _empty_figure()
    end = max(x for x, _ in reached) * 1.02
    xs, ys = zip((0, 0.0), *reached, (end, reached[-1][1]), strict=True)
    axes.plot(xs, ys, drawstyle="steps-post", color=MARKS[FRONT].paper, linewidth=1.2)
    axes.set(xlabel=axis.label, ylabel=_wrapped(f"{what}, higher is better", HEIGHT_INCHES), xlim=(0, end))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_ylim(0, 1.08 * max(*ys, baselines))
    if baselines > 0:
        axes.axhline(baselines, color=MARKS[BASELINE].paper, linestyle="--", linewidth=1)
        place = {"xycoords": ("axes fraction", "data"), "xytext": (0, -3), "textcoords": "offset points"}
        label = axes.annotate("baselines alone", (0.99, baselines), **place)
        label.set(ha="right", va="top", fontsize=MIN_FONT_POINTS, color=MARKS[BASELINE].paper)
    return figure


def _rung_figure(study: StudyRecord, summary: StudySummary) -> Figure | None:
    """Draw the score at each lower rung against the score at the last rung, a panel per lower rung."""
    steps = study.info.rung_steps
    last = len(steps) - 1
    front = {s.trial.number for s in summary.front}
    to_last = {c.low: c for c in summary.correlations if c.high == last}
    lower = [rung for rung in range(last) if to_last[rung].trials >= MIN_MODELS][-MAX_PANELS:]
    if not lower:
        return None
    figure, panels = _empty_figure(len(lower), HEIGHT_INCHES if len(lower) == 1 else PANEL_HEIGHT_INCHES)
    reached = [
        ({r.rung: r.score for r in t.rungs if math.isfinite(r.score)}, t.number in front)
        for t in study.trials
        if not t.baseline
    ]
    for axes, rung in zip(panels, lower, strict=True):
        for on_front in (False, True):
            pairs = [(q[rung], q[last]) for q, on in reached if on is on_front and rung in q and last in q]
            _draw_pairs(axes, pairs, on_front)
        tau = to_last[rung].tau
        axes.set_title(f"{to_last[rung].trials} models, τ " + ("undefined" if tau is None else f"{tau:.2f}"))
        axes.set_xlabel(f"score at {steps[rung]:,}")
        axes.xaxis.set_major_locator(MaxNLocator(3))
    panels[0].set_ylabel(f"score at {steps[last]:,} steps")
    for axes in panels[1:]:
        axes.sharey(panels[0])
        axes.tick_params(labelleft=False)
    return figure


def _draw_pairs(axes: Any, pairs: list[tuple[float, float]], on_front: bool) -> None:
    style = MARKS[FRONT if on_front else DOMINATED]
    many = len(pairs) > MAX_VECTOR_POINTS
    axes.plot(
        [x for x, _ in pairs], [y for _, y in pairs], "o", color=style.paper, markersize=1.5 if many else 2.5,
        alpha=0.3 if many else 0.8, markeredgewidth=0, rasterized=many, zorder=3 if on_front else 2,
    )  # fmt: skip


def _importance_figure(rows: Sequence[Importance], words: Mapping[str, str]) -> Figure | None:
    """Draw the most important choices of any objective, a mark with its interval per objective.

    Objectives that the choices do not explain are left out; None if that is all of them.
    """
    rows = [r for r in rows if r.meaningful]
    if not rows:
        return None
    largest = {
        choice: max(r.share for r in rows if r.choice == choice) for choice in dict.fromkeys(r.choice for r in rows)
    }
    choices = sorted(largest, key=lambda choice: -largest[choice])[:MAX_CHOICES]
    objectives = list(dict.fromkeys(r.objective for r in rows))
    figure, (axes,) = _empty_figure(height_inches=FRAME_INCHES + CHOICE_INCHES * len(choices))
    axes.axvline(0, color="0.6", linewidth=0.6)
    for i, objective in enumerate(objectives):
        shown = [r for r in rows if r.objective == objective and r.choice in choices]
        y = [choices.index(r.choice) + (i + 0.5) / len(objectives) * 0.6 - 0.3 for r in shown]
        color, marker = SERIES[i % len(SERIES)][1], MARKERS[i % len(MARKERS)]
        axes.hlines(y, [100 * r.low for r in shown], [100 * r.high for r in shown], color=color, linewidth=1)
        label = f"{words[objective]} (all choices together: {100 * shown[0].explained:.0f} %)"
        axes.plot([100 * r.share for r in shown], y, marker, color=color, markersize=3.5, label=label)
    axes.set_yticks(range(len(choices)), choices)
    axes.set_ylim(len(choices) - 0.4, -0.6)
    axes.set_xlabel("share of variance, %, with 95 % interval")
    figure.legend(loc="outside upper center", frameon=False, handletextpad=0.1)
    return figure
