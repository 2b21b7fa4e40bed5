"""Hypervolume against what the search spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reports.plates.canvas import HEIGHT_INCHES, SMALL, blank, folded
from reports.points import BASELINE, FRONT, LOOKS
from reports.summary import CurvePoint


@dataclass(frozen=True)
class Spent:
    """What is laid off to the right."""

    label: str
    value: Callable[[CurvePoint], float | None]


TRAININGS = Spent("architectures trained", lambda point: point.evaluations)
STEPS = Spent("training steps, all architectures", lambda point: point.steps)
SECONDS = Spent("seconds since the search began", lambda point: point.seconds)


def hypervolume_figure(
    curve: Sequence[CurvePoint], baselines: float, spent: Spent, what: str = "hypervolume"
) -> Figure | None:
    """Steps of the hypervolume, with the baselines' own as a level to beat; None where it stays nothing."""
    reached = [(x, c.hypervolume) for c in curve if (x := spent.value(c)) is not None]
    if not any(volume > 0 for _, volume in reached):
        return None
    figure, (axes,) = blank()
    end = max(x for x, _ in reached) * 1.02
    xs, ys = zip((0, 0.0), *reached, (end, reached[-1][1]), strict=True)
    axes.plot(xs, ys, drawstyle="steps-post", color=LOOKS[FRONT].paper, linewidth=1.2)
    axes.set(xlabel=spent.label, ylabel=folded(f"{what}, higher is better", HEIGHT_INCHES), xlim=(0, end))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_ylim(0, 1.08 * max(*ys, baselines))
    if baselines > 0:
        axes.axhline(baselines, color=LOOKS[BASELINE].paper, linestyle="--", linewidth=1)
        place = {"xycoords": ("axes fraction", "data"), "xytext": (0, -3), "textcoords": "offset points"}
        words = axes.annotate("baselines alone", (0.99, baselines), **place)
        words.set(ha="right", va="top", fontsize=SMALL, color=LOOKS[BASELINE].paper)
    return figure
