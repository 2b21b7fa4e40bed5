"""The report's figures for papers, one column wide, by matplotlib: PDF, PNG and SVG with the numbers of the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nas.study.records import StudyRecord
from reports.evidence_data import retraining_points
from reports.figure_data import BASELINE, DOMINATED, FRONT, MARKS, SERIES, prepare
from reports.importance import Importance, importances
from reports.paper_front import FrontAdditions, front_figure
from reports.paper_style import (
    CHOICE_INCHES,
    DPI,
    FORMATS,
    FRAME_INCHES,
    HEIGHT_INCHES,
    MAX_VECTOR_POINTS,
    MIN_FONT_POINTS,
    PANEL_HEIGHT_INCHES,
    STYLE,
    empty_figure,
    wrapped,
)
from reports.scored_trials import objective_words
from reports.sentences import baseline_kind
from reports.summary import CurvePoint, StudySummary

MARKERS = ("o", "D", "s", "^", "v", "P")
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
        retraining: results, as `reports.evidence_data.retraining_results` returns them; drawn with error bars.
        behind: another study, whose front is drawn in gray behind the front of this one.
    """
    data = prepare(study, summary)
    additions = FrontAdditions(baseline_kind(study.info), retraining, behind)
    with rc_context(STYLE):
        return {
            "front": front_figure(data, retraining_points(study, retraining), additions),
            **{name: _progress_figure(summary, axis, data.curve_label) for name, axis in PROGRESS.items()},
            "rungs": _rung_figure(study, summary),
            "importance": _importance_figure(importances(study.info, summary), objective_words(study.info)),
        }


def draw_front(study: StudyRecord, summary: StudySummary) -> Figure | None:
    """Draw the Pareto front alone; None for a study without measurements, or with one objective."""
    with rc_context(STYLE):
        return front_figure(prepare(study, summary), [], FrontAdditions(baseline_kind(study.info)))


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


def _progress_figure(summary: StudySummary, axis: ProgressAxis, what: str) -> Figure | None:
    """Draw the hypervolume in steps, and the level of the baselines; None where it never rises above 0."""
    reached = [(x, c.hypervolume) for c in summary.curve if (x := axis.value(c)) is not None]
    if not any(volume > 0 for _, volume in reached):
        return None
    baselines = summary.baseline_hypervolume
    figure, (axes,) = empty_figure()
    end = max(x for x, _ in reached) * 1.02
    xs, ys = zip((0, 0.0), *reached, (end, reached[-1][1]), strict=True)
    axes.plot(xs, ys, drawstyle="steps-post", color=MARKS[FRONT].paper, linewidth=1.2)
    axes.set(xlabel=axis.label, ylabel=wrapped(f"{what}, higher is better", HEIGHT_INCHES), xlim=(0, end))
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
    figure, panels = empty_figure(len(lower), HEIGHT_INCHES if len(lower) == 1 else PANEL_HEIGHT_INCHES)
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
    figure, (axes,) = empty_figure(height_inches=FRAME_INCHES + CHOICE_INCHES * len(choices))
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
