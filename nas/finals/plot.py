"""The finalists' front as a picture: means and measured ratios with their error bars, coloured by chance."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nas.finals.standing import Row, Standings
from nas.profile.labels import label_points
from nas.records import Study
from nas.reranking.plot import speed_axis

INCHES = (8.0, 5.4)
DPI = 200
LABEL_CHARACTERS = 56
STYLE = {"text.parse_math": False, "svg.hashsalt": "finals", "font.size": 9, "svg.fonttype": "none"}
# The dark half of a colour-blind-safe scale: its light end would not be seen on white.
COLOURS = ListedColormap(colormaps["viridis_r"]([0.12 + 0.88 * i / 255 for i in range(256)]))
MARKERS = {(True, True): "o", (True, False): "v", (False, True): "^", (False, False): "s"}
WORDS = {
    (True, True): "stayed on the front",
    (True, False): "fell off",
    (False, True): "joined",
    (False, False): "near miss, not on it",
}
BASELINE = "0.35"


def plot(study: Study, s: Standings, path: Path) -> None:
    """Write the picture; its type is the path's suffix. There is a row with both numbers at least."""
    rows = s.both
    with rc_context(STYLE):
        figure = Figure(figsize=INCHES, layout="constrained", dpi=DPI)
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        _front(axes, [r for r in rows if r.on_front])
        for row in sorted(rows, key=lambda r: r.chance or 0.0):  # the likely ones lie on top
            _dot(axes, row, s)
        _axes(axes, study, s)
        if any(r.chance is not None for r in rows):
            scale = ScalarMappable(cmap=COLOURS)
            figure.colorbar(scale, ax=axes, label="chance to be on the front", shrink=0.8, pad=0.02)
        _legend(figure, rows)
        points = [(*_xy(r), _label(r)) for r in rows]
        label_points(axes, points, [_bar(r, s) for r in rows])
        figure.savefig(path, dpi=DPI)


def _xy(row: Row) -> tuple[float, float]:
    assert row.measurement is not None
    assert row.mean is not None
    return row.measurement.ratio, row.mean


def _bar(row: Row, s: Standings) -> tuple[float, float]:
    half = s.scatter.half_width(len(row.qualities))
    return _xy(row)[1] - half, _xy(row)[1] + half


def _front(axes: Any, rows: Sequence[Row]) -> None:
    if rows:
        x, y = zip(*sorted(map(_xy, rows), key=lambda xy: (xy[0], -xy[1])), strict=True)
        axes.step(x, y, where="pre", color="0.6", linewidth=1.0, zorder=1)


def _dot(axes: Any, row: Row, s: Standings) -> None:
    m, (x, y) = row.measurement, _xy(row)
    assert m is not None
    colour = BASELINE if row.chance is None else COLOURS(row.chance)
    axes.plot([m.ratio_low, m.ratio_high], [y, y], color=colour, linewidth=1.0, zorder=2)
    axes.plot([x, x], _bar(row, s), color=colour, linewidth=1.0, zorder=2)
    face = "white" if row.chance is None else colour
    axes.plot(x, y, marker=_marker(row), markersize=6.5, color=colour, markerfacecolor=face, linestyle="", zorder=3)


def _marker(row: Row) -> str:
    return "D" if row.trial.baseline else MARKERS[row.was_on_front, row.on_front]


def _label(row: Row) -> str:
    return row.trial.baseline or str(row.trial.number)


def _axes(axes: Any, study: Study, s: Standings) -> None:
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    seeds = f"mean of {len(s.seeds)} seeds" if len(s.seeds) > 1 else "one seed"
    title = f"{study.info.name}: finalists after {s.steps} steps, {seeds}; bars are 95 % intervals"
    axes.set_title(title, fontsize=8, color="0.25", loc="left")
    ms = [r.measurement for r in s.both if r.measurement]
    axes.set_xlabel(f"throughput, times {ms[0].reference}'s, higher is better")
    label = "\n".join(textwrap.wrap(study.info.objectives[0].label, LABEL_CHARACTERS))
    axes.set_ylabel(f"{label}\nhigher is better")
    low, high = min(m.ratio_low for m in ms), max(m.ratio_high for m in ms)
    speed_axis(axes, low, high)


def _legend(figure: Any, rows: Sequence[Row]) -> None:
    looks = {(r.was_on_front, r.on_front) for r in rows if not r.trial.baseline}
    keys = [_key(MARKERS[look], WORDS[look], filled=True) for look in MARKERS if look in looks]
    keys += [_key("D", "baseline", filled=False)] if any(r.trial.baseline for r in rows) else []
    figure.legend(handles=keys, loc="outside lower center", ncols=5, frameon=False, fontsize=8)


def _key(marker: str, label: str, filled: bool) -> Line2D:
    face = "0.35" if filled else "white"
    return Line2D([], [], linestyle="", marker=marker, markersize=6.5, color="0.35", markerfacecolor=face, label=label)
