"""Both fronts as one picture: the same nets with the same look, before on the left and now on the right."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from nas.profiling.labels import label_points
from nas.records import Measurement, Rerank, Study
from nas.reranking.comparison import Comparison, Row
from nas.reranking.plane import Standing
from nas.reranking.selection import is_baseline, net_name, quality

INCHES = (10.0, 4.9)
DPI = 200
TITLE_CHARACTERS, LABEL_CHARACTERS = 80, 56
LABELLED = 24  # more nets than that: only those of a front are named
STYLE = {"text.parse_math": False, "svg.hashsalt": "rerank", "font.size": 9, "svg.fonttype": "none"}


@dataclass(frozen=True)
class Look:
    """How nets of one fate are told apart: by colour (Okabe and Ito's colour-blind-safe palette), shape and filling."""

    label: str
    colour: str
    marker: str
    size: float = 6.0
    filled: bool = True


STAYED = Look("stayed on the front", "#0072b2", "o")
TIED = Look("left it by less than the intervals", "#c77a00", "o")
LEFT = Look("left the front", "#b8470b", "v", 7.0)
JOINED = Look("joined the front", "#007f5f", "^", 7.0)
LOST = Look("on the front, no number now", "#b8470b", "x", 7.0)
ASIDE = Look("on neither", "#8a9099", "o", 4.0)
BASELINE = Look("baseline", "0.2", "D", 5.5, filled=False)
LOOKS = (STAYED, TIED, LEFT, JOINED, LOST, ASIDE, BASELINE)
UNBEATEN = (Standing.FRONT, Standing.OPEN)  # among the nets that are drawn


@dataclass(frozen=True)
class Dot:
    """A net in one panel."""

    row: Row
    measurement: Measurement
    on_line: bool

    @property
    def xy(self) -> tuple[float, float]:
        """Ratio and quality."""
        return self.measurement.ratio, quality(self.row.trial)


def plot(study: Study, rerank: Rerank, c: Comparison, path: Path) -> None:
    """Write the picture; its type is the path's suffix."""
    found = {r.trial.number for r in c.rows if not is_baseline(r.trial)}
    before = [Dot(r, r.trial.measurement, r.before.standing in UNBEATEN) for r in c.rows if r.trial.measurement]
    now = [Dot(r, r.measurement, r.now.standing in UNBEATEN) for r in c.rows if r.measurement and r.now]
    with rc_context(STYLE):
        figure = Figure(figsize=INCHES, layout="constrained", dpi=DPI)
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, dots, title in ((left, before, "before"), (right, now, "now")):
            _panel(axes, dots, [d for d in dots if d.on_line and d.row.trial.number in found])
            axes.set_title(_title(title, dots), fontsize=8, color="0.25", loc="left")
            axes.set_xlabel(f"throughput, times {rerank.setting['reference']}'s, higher is better")
        left.set_ylabel(_folded(study.info.objectives[0].label, LABEL_CHARACTERS) + "\nhigher is better")
        measured = [dot.measurement for dot in (*before, *now)]
        speed_axis(left, min(m.ratio_low for m in measured), max(m.ratio_high for m in measured))
        looks = {_look(d.row) for d in before}
        figure.legend(handles=[_key(look) for look in LOOKS if look in looks], loc="outside lower center",
                      ncols=min(5, len(looks)), frameon=False, fontsize=8)  # fmt: skip
        for axes, dots in ((left, before), (right, now)):
            label_points(axes, [(*d.xy, _label(d.row, crowded=len(dots) > LABELLED)) for d in dots])
        figure.savefig(path, dpi=DPI)


def _panel(axes: Any, dots: Sequence[Dot], line: Sequence[Dot]) -> None:
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if line:
        x, y = zip(*sorted((d.xy for d in line), key=lambda xy: (xy[0], -xy[1])), strict=True)
        axes.step(x, y, where="pre", color="#0072b2", linewidth=1.0, alpha=0.6, zorder=1)
    for dot in sorted(dots, key=lambda d: _look(d.row) is not ASIDE):  # what matters lies on top
        m, look = dot.measurement, _look(dot.row)
        axes.plot([m.ratio_low, m.ratio_high], [dot.xy[1]] * 2, color=look.colour, linewidth=1.0, alpha=0.8, zorder=2)
        axes.plot(*dot.xy, linestyle="", zorder=3, **_marker(look))


def _marker(look: Look) -> dict[str, Any]:
    face = look.colour if look.filled else "white"
    return {"marker": look.marker, "markersize": look.size, "color": look.colour, "markerfacecolor": face}


def _key(look: Look) -> Line2D:
    return Line2D([], [], linestyle="", label=look.label, **_marker(look))


def _look(row: Row) -> Look:
    if is_baseline(row.trial):
        return BASELINE
    now = row.now.standing if row.now else None
    if row.before.standing is Standing.FRONT:
        return {None: LOST, Standing.FRONT: STAYED, Standing.TIED: TIED}.get(now, LEFT)
    return JOINED if now is Standing.FRONT else ASIDE


def _label(row: Row, crowded: bool) -> str:
    """Empty where there are too many: its point is kept free of other names all the same."""
    if crowded and _look(row) is ASIDE:
        return ""
    return net_name(row.trial) if is_baseline(row.trial) else str(row.trial.number)


def _title(which: str, dots: Sequence[Dot]) -> str:
    """What most nets of a panel were measured with; the two panels are no common front."""
    ms = [d.measurement for d in dots]
    if not ms:
        return f"{which}: no net was measured"
    how = f"{_mostly(m.arm for m in ms)}; batch {_mostly(m.batch for m in ms)}, {_mostly(m.resolution for m in ms)} px"
    return "\n".join(_folded(line, TITLE_CHARACTERS) for line in (f"{which}: {_mostly(m.device for m in ms)}", how))


def _folded(text: str, characters: int) -> str:
    return "\n".join(textwrap.wrap(text, characters))


def _mostly(values: Iterable[object]) -> object:
    return Counter(values).most_common(1)[0][0]


def speed_axis(axes: Any, low: float, high: float) -> None:
    """Speed in doublings with plain numbers, from the lowest ratio to the highest."""
    axes.set_xscale("log", base=2)
    axes.set_xlim(low / 1.15, high * 1.2)
    subs = (1.0,) if high / low > 4 else (1.0, 1.5) if high / low > 1.7 else (1.0, 1.25, 1.5, 1.75)
    axes.xaxis.set_major_locator(LogLocator(base=2, subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(y=0.12)
