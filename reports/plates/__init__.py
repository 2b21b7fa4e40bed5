"""The report's figures for papers, one column wide, with matplotlib: PDF, PNG and SVG from the numbers of the page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from nas.records import Study
from reports.importance import importances
from reports.plates.canvas import DPI, FORMATS, STYLE
from reports.plates.choices import importance_figure
from reports.plates.front import front_figure
from reports.plates.progress import SECONDS, STEPS, TRAININGS, hypervolume_figure
from reports.plates.rungs import rung_figure
from reports.points import prepare
from reports.summary import StudySummary
from reports.wording import brief


def draw(study: Study, summary: StudySummary) -> dict[str, Figure | None]:
    """The figures by file name; None where the study has no data for one."""
    level, data = summary.baseline_hypervolume, prepare(study, summary)
    what = "hypervolume" if data.single is None else f"best {brief(data.single.label)}"
    with rc_context(STYLE):
        return {
            "front": front_figure(data),
            "hypervolume": hypervolume_figure(summary.curve, level, TRAININGS, what),
            "hypervolume-steps": hypervolume_figure(summary.curve, level, STEPS, what),
            "hypervolume-seconds": hypervolume_figure(summary.curve, level, SECONDS, what),
            "rungs": rung_figure(study, summary),
            "importance": importance_figure(importances(study.info, summary)),
        }


def save(figures: Mapping[str, Figure | None], folder: Path) -> list[Path]:
    """Write the figures into `folder` (made if missing); the paths. The same study gives the same bytes."""
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
