"""What matters: the choices that account for most of each objective's variance."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from reports.importance import Importance
from reports.plates.canvas import blank
from reports.points import SERIES

MOST_CHOICES = 12
MARKERS = ("o", "D", "s", "^", "v", "P")
ROW_INCHES = 0.19


def importance_figure(rows: Sequence[Importance]) -> Figure | None:
    """A line a choice, the most important ones of any objective on top; a mark an objective, with its interval.

    Objectives of which nothing could be learnt are left out; None where that is all of them.
    """
    rows = [r for r in rows if r.learnt]
    if not rows:
        return None
    best = {
        choice: max(r.share for r in rows if r.choice == choice) for choice in dict.fromkeys(r.choice for r in rows)
    }
    choices = sorted(best, key=lambda choice: -best[choice])[:MOST_CHOICES]
    objectives = list(dict.fromkeys(r.objective for r in rows))
    figure, (axes,) = blank(height=0.95 + ROW_INCHES * len(choices))
    axes.axvline(0, color="0.6", linewidth=0.6)
    for i, objective in enumerate(objectives):
        shown = [r for r in rows if r.objective == objective and r.choice in choices]
        y = [choices.index(r.choice) + (i + 0.5) / len(objectives) * 0.6 - 0.3 for r in shown]
        colour, marker = SERIES[i % len(SERIES)][1], MARKERS[i % len(MARKERS)]
        axes.hlines(y, [100 * r.low for r in shown], [100 * r.high for r in shown], color=colour, linewidth=1)
        label = f"{objective} (all choices together: {100 * shown[0].explained:.0f} %)"
        axes.plot([100 * r.share for r in shown], y, marker, color=colour, markersize=3.5, label=label)
    axes.set_yticks(range(len(choices)), choices)
    axes.set_ylim(len(choices) - 0.4, -0.6)
    axes.set_xlabel("share of variance, %, with 95 % interval")
    figure.legend(loc="outside upper center", frameon=False, handletextpad=0.1)
    return figure
