"""Arms as one picture: for each network how much faster each arm is than the first, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nas.measure import Arm
from nas.measure.arms import RUNTIMES
from nas.profile.arms import ArmRow, ArmsProfile
from nas.profile.plots import COLOURS, DPI, STYLE, log_axis

OF_RUNTIME = dict(zip(RUNTIMES, COLOURS, strict=True))  # a runtime has its colour in every picture
WIDTH_INCHES, ROW_INCHES, PANEL_INCHES = 7.5, 0.24, 0.75
WIDE = 4.0  # highest over lowest ratio: from there on the axis is logarithmic, and has ticks enough


def plot_arms(profiles: Sequence[ArmsProfile], base: Arm, path: Path) -> None:
    """One panel a network, on one axis; nothing where nothing was measured. base: what arms' names leave open."""
    shown = [p for p in profiles if p.first]
    if not shown:
        return
    rows = [len(p.rows) for p in shown]
    heights = [PANEL_INCHES + ROW_INCHES * count for count in rows]
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, sum(heights) + 0.5), layout="constrained", dpi=DPI)
        FigureCanvasAgg(figure)
        device = shown[0].environment["device_name"]
        figure.suptitle(f"{device}; what an arm's name leaves open: {base}", fontsize=8, color="0.35")
        panels = list(figure.subplots(len(shown), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0])
        for axes, p in zip(panels, shown, strict=True):
            _panel(axes, p)
        _scale(panels, shown)
        figure.savefig(path, dpi=DPI)


def _panel(axes: Any, p: ArmsProfile) -> None:
    assert p.first is not None
    assert p.noise is not None
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.axvspan(1 / (1 + p.noise), 1 + p.noise, color="0.88", linewidth=0)
    axes.axvline(1, color="0.4", linewidth=0.8)
    for y, row in enumerate(p.by_runtime):
        _row(axes, p, y, row)
    axes.set_yticks(range(len(p.rows)), [row.name for row in p.by_runtime])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(p.rows) - 0.4, -0.6)
    axes.set_title(f"{p.arch}, batch {p.batch}, {p.resolution} px", fontsize=9, loc="left")


def _row(axes: Any, p: ArmsProfile, y: int, row: ArmRow) -> None:
    """A point with whiskers, hollow where it is a tie, and the throughput at the margin."""
    m = row.measurement
    right = f"{m.throughput_img_s:.4g} img/s" if m else ("can't run here" if row.impossible else "failed")
    axes.annotate(right, (1.0, y), (6, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                  va="center", fontsize=8, color="0.25" if m else "0.55")  # fmt: skip
    if m is None:
        return
    colour = OF_RUNTIME[row.arm.runtime]
    whisker = [[m.ratio - m.ratio_low], [m.ratio_high - m.ratio]]
    axes.errorbar(m.ratio, y, xerr=whisker, fmt="o", markersize=6, capsize=3, color=colour,
                  markerfacecolor="white" if p.tie(row) else colour)  # fmt: skip


def _scale(panels: Sequence[Any], shown: Sequence[ArmsProfile]) -> None:
    """The axis that all panels share."""
    found = [row.measurement for p in shown for row in p.rows if row.measurement]
    noise = 1 + max(p.noise or 0.0 for p in shown)
    low, high = min(1 / noise, *(m.ratio_low for m in found)), max(noise, *(m.ratio_high for m in found))
    bottom = panels[-1]
    if high / low > WIDE:
        log_axis(bottom, "x", [low, high], 1.05)
    else:
        margin = 0.04 * (high - low)
        bottom.set_xlim(low - margin, high + margin)
    names = {p.first.name for p in shown if p.first}
    first = names.pop() if len(names) == 1 else "the first arm"
    bottom.set_xlabel(
        f"throughput over that of {first}, 95 % intervals; grey: what an A/A pair differs by; hollow: tie"
    )
