"""Whether short trainings foretell long ones: quality at each lower rung against quality at the last."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nas.records import Study
from reports.plates.canvas import HEIGHT_INCHES, RASTERED, blank
from reports.points import DOMINATED, FRONT, LOOKS
from reports.summary import StudySummary

MOST_PANELS = 3  # the rungs next to the last; more are too narrow to read
FEWEST_NETS = 3


def rung_figure(study: Study, summary: StudySummary) -> Figure | None:
    """A panel a lower rung, over the nets that reached the last; the nets on the front in its colour."""
    last, steps = len(study.info.rung_steps) - 1, study.info.rung_steps
    front = {s.trial.number for s in summary.front}
    taus = {c.low: c for c in summary.correlations if c.high == last}
    lower = [rung for rung in range(last) if taus[rung].trials >= FEWEST_NETS][-MOST_PANELS:]
    if not lower:
        return None
    figure, panels = blank(len(lower), HEIGHT_INCHES if len(lower) == 1 else 2.1)
    reached = [
        ({r.rung: r.quality for r in t.rungs if math.isfinite(r.quality)}, t.number in front)
        for t in study.trials
        if not t.baseline
    ]
    for axes, rung in zip(panels, lower, strict=True):
        for on_front in (False, True):
            pairs = [(q[rung], q[last]) for q, on in reached if on is on_front and rung in q and last in q]
            _dots(axes, pairs, on_front)
        tau = taus[rung].tau
        axes.set_title(f"{taus[rung].trials} nets, τ " + ("undefined" if tau is None else f"{tau:.2f}"))
        axes.set_xlabel(f"quality at {steps[rung]:,}")
        axes.xaxis.set_major_locator(MaxNLocator(3))
    panels[0].set_ylabel(f"quality at {steps[last]:,} steps")
    for axes in panels[1:]:
        axes.sharey(panels[0])
        axes.tick_params(labelleft=False)
    return figure


def _dots(axes: Any, pairs: list[tuple[float, float]], on_front: bool) -> None:
    look = LOOKS[FRONT if on_front else DOMINATED]
    crowd = len(pairs) > RASTERED
    axes.plot(
        [x for x, _ in pairs], [y for _, y in pairs], "o", color=look.paper, markersize=1.5 if crowd else 2.5,
        alpha=0.3 if crowd else 0.8, markeredgewidth=0, rasterized=crowd, zorder=3 if on_front else 2,
    )  # fmt: skip
