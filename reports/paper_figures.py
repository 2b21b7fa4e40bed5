"""The report's figures for papers, one column wide, by matplotlib: PDF, PNG and SVG with the numbers of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nas.study.records import StudyRecord
from reports.evidence_data import retraining_points
from reports.figure_data import BASELINE, FRONT, MARKS, prepare
from reports.paper_front import FrontAdditions, front_figure
from reports.paper_style import (
    DPI,
    FORMATS,
    HEIGHT_INCHES,
    MIN_FONT_POINTS,
    STYLE,
    empty_figure,
    wrapped,
)
from reports.sentences import baseline_kind
from reports.summary import CurvePoint, StudySummary


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
    figure, axes = empty_figure()
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
