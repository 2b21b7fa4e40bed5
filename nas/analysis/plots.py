"""Draw fronts: of retrained candidates, and of a study's measurements next to a remeasurement's."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mode
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from nas.analysis.front import FrontStatus
from nas.analysis.point_labels import label_points
from nas.analysis.remeasuring import RemeasuredCandidate, RemeasuringComparison
from nas.analysis.retraining import RetrainedCandidate, RetrainingSummary
from nas.study.records import Measurement, Remeasurement, StudyRecord, TrialRecord
from nas.study.timing_doubts import drawn_ends

DPI = 200
TITLE_CHARACTERS, LABEL_CHARACTERS = 80, 56
MAX_LABELED = 24  # with more candidates, only those of a front are named
LEGEND_COLUMNS = 5
STYLE = {"text.parse_math": False, "font.size": 9, "svg.fonttype": "none"}


@dataclass(frozen=True)
class PointLook:
    """Color (of Okabe and Ito's color-blind-safe palette), shape and filling of points with one outcome."""

    label: str
    color: str
    marker: str
    size: float = 6.0
    filled: bool = True

    def line(self, color: Any = None) -> dict[str, Any]:
        """Return matplotlib's properties of a lone marker; `color` replaces the look's own."""
        color = self.color if color is None else color
        face = color if self.filled else "white"
        return {
            "marker": self.marker,
            "markersize": self.size,
            "color": color,
            "markerfacecolor": face,
            "linestyle": "",
        }


# For retraining; filled by the chance to be on the front.
KEPT = PointLook("still on the front", "0.35", "o", 6.5)
FELL_OFF = PointLook("left the front", "0.35", "v", 6.5)
CAME = PointLook("joined the front", "0.35", "^", 6.5)
NEAR_MISS = PointLook("not on the front", "0.35", "s", 6.5)
EARLY_STOPPED = PointLook("early-stopped by the search, not on the front", "0.35", "x", 4.5)
RETRAINED_BASELINE = PointLook("baseline", "0.35", "D", 6.5, filled=False)
RETRAINING_LOOKS = (KEPT, FELL_OFF, CAME, NEAR_MISS, EARLY_STOPPED, RETRAINED_BASELINE)
# The dark half of a color-blind-safe scale: its light end is invisible on white.
CHANCE_COLORS = ListedColormap(colormaps["viridis_r"]([0.12 + 0.88 * i / 255 for i in range(256)]))

# For remeasuring.
STAYED = PointLook("still on the front", "#0072b2", "o")
TIED = PointLook("dominated only within the intervals", "#c77a00", "o")
LEFT = PointLook("left the front", "#b8470b", "v", 7.0)
JOINED = PointLook("joined the front", "#007f5f", "^", 7.0)
LOST = PointLook("was on the front, not measured now", "#b8470b", "x", 7.0)
ASIDE = PointLook("on neither front", "#8a9099", "o", 4.0)
BASELINE = PointLook("baseline", "0.2", "D", 5.5, filled=False)
REMEASURING_LOOKS = (STAYED, TIED, LEFT, JOINED, LOST, ASIDE, BASELINE)
UNDOMINATED = (FrontStatus.FRONT, FrontStatus.OPEN)  # among the candidates that are drawn


def plot_retraining(study: StudyRecord, summary: RetrainingSummary, path: Path) -> None:
    """Write a picture of mean scores and measured ratios with error bars, in the format of the path's suffix.

    Early-stopped candidates that did not come to the front have no name in it. At least one candidate must have both
    numbers.
    """
    candidates = summary.complete
    with _figure((8.0, 5.4), "retraining", path) as figure:
        axes = figure.subplots()
        _draw_steps(axes, [_mean_point(c) for c in candidates if c.on_front], "0.6")
        for candidate in sorted(candidates, key=lambda c: c.chance or 0.0):  # the likely ones lie on top
            _draw_retrained(axes, candidate, summary)
        _label_retraining(axes, study, summary)
        if any(c.chance is not None for c in candidates):
            scale = ScalarMappable(cmap=CHANCE_COLORS)
            figure.colorbar(scale, ax=axes, label="chance to be on the front", shrink=0.8, pad=0.02)
        _legend(figure, RETRAINING_LOOKS, {_retraining_look(c) for c in candidates})
        labeled = [c for c in candidates if _retraining_look(c) is not EARLY_STOPPED]
        points = [(*_mean_point(c), _short_label(c.trial)) for c in labeled]
        label_points(axes, points, [_seed_bar(c, summary) for c in labeled])


def _mean_point(c: RetrainedCandidate) -> tuple[float, float]:
    assert c.measurement is not None
    assert c.mean is not None
    return c.measurement.ratio, c.mean


def _seed_bar(c: RetrainedCandidate, summary: RetrainingSummary) -> tuple[float, float]:
    half = summary.scatter.of_kind(c.trial.baseline).half_width([*c.scores.values()]) or 0.0
    return _mean_point(c)[1] - half, _mean_point(c)[1] + half


def _draw_retrained(axes: Any, c: RetrainedCandidate, summary: RetrainingSummary) -> None:
    m, (x, y), look = c.measurement, _mean_point(c), _retraining_look(c)
    assert m is not None
    color = look.color if c.chance is None else CHANCE_COLORS(c.chance)
    axes.plot(drawn_ends(m), [y, y], color=color, linewidth=1.0, zorder=2)
    axes.plot([x, x], _seed_bar(c, summary), color=color, linewidth=1.0, zorder=2)
    axes.plot(x, y, zorder=3, **look.line(color))


def _retraining_look(c: RetrainedCandidate) -> PointLook:
    if c.trial.baseline:
        return RETRAINED_BASELINE
    if c.was_on_front:
        return KEPT if c.on_front else FELL_OFF
    if c.on_front:
        return CAME
    return NEAR_MISS if c.stopped_after is None else EARLY_STOPPED


def _label_retraining(axes: Any, study: StudyRecord, summary: RetrainingSummary) -> None:
    _prepare(axes)
    title = f"{study.info.name}: retrained for {summary.steps} steps, {summary.mean_words}; bars are 95 % intervals"
    axes.set_title(title, fontsize=8, color="0.25", loc="left")
    measured = [c.measurement for c in summary.complete if c.measurement]
    _label_speed(axes, measured, measured[0].reference)
    _label_score(axes, study)


@dataclass(frozen=True)
class PanelPoint:
    """A candidate in one panel."""

    candidate: RemeasuredCandidate
    measurement: Measurement
    on_front: bool

    @property
    def xy(self) -> tuple[float, float]:
        """Return ratio and score."""
        return self.measurement.ratio, self.candidate.trial.final_score


def plot_remeasuring(study: StudyRecord, again: Remeasurement, c: RemeasuringComparison, path: Path) -> None:
    """Write a picture of both fronts, before on the left and now on the right, in the format of the path's suffix."""
    before = [
        PanelPoint(r, r.trial.measurement, r.before.status in UNDOMINATED) for r in c.candidates if r.trial.measurement
    ]
    now = [PanelPoint(r, r.measurement, r.now.status in UNDOMINATED) for r in c.candidates if r.measurement and r.now]
    with _figure((10.0, 4.9), "remeasuring", path) as figure:
        left, right = figure.subplots(1, 2, sharex=True, sharey=True)
        measured = [point.measurement for point in (*before, *now)]
        for axes, points, title in ((left, before, "before"), (right, now, "now")):
            _draw_panel(axes, points)
            axes.set_title(_panel_title(title, points), fontsize=8, color="0.25", loc="left")
            _label_speed(axes, measured, again.setting["reference"])
        _label_score(left, study)
        _legend(figure, REMEASURING_LOOKS, {_remeasuring_look(p.candidate) for p in before})
        for axes, points in ((left, before), (right, now)):
            crowded = len(points) > MAX_LABELED
            label_points(axes, [(*p.xy, _panel_label(p.candidate, crowded)) for p in points])


def _draw_panel(axes: Any, points: Sequence[PanelPoint]) -> None:
    _prepare(axes)
    front = [p for p in points if p.on_front and not p.candidate.trial.baseline]
    _draw_steps(axes, [p.xy for p in front], STAYED.color, alpha=0.6)
    for point in sorted(
        points, key=lambda p: _remeasuring_look(p.candidate) is not ASIDE
    ):  # candidates of either front lie on top
        m, look = point.measurement, _remeasuring_look(point.candidate)
        x, y = point.xy
        axes.plot(drawn_ends(m), [y, y], color=look.color, linewidth=1.0, alpha=0.8, zorder=2)
        axes.plot(x, y, zorder=3, **look.line())


def _remeasuring_look(c: RemeasuredCandidate) -> PointLook:
    if c.trial.baseline:
        return BASELINE
    now = c.now.status if c.now else None
    if c.before.status is FrontStatus.FRONT:
        return {None: LOST, FrontStatus.FRONT: STAYED, FrontStatus.TIED: TIED}.get(now, LEFT)
    return JOINED if now is FrontStatus.FRONT else ASIDE


def _panel_label(c: RemeasuredCandidate, crowded: bool) -> str:
    """Return the candidate's label; it is empty in a crowded panel, where its point still keeps other labels away."""
    return "" if crowded and _remeasuring_look(c) is ASIDE else _short_label(c.trial)


def _panel_title(which: str, points: Sequence[PanelPoint]) -> str:
    """Return a title with the setting of most measurements in a panel."""
    ms = [p.measurement for p in points]
    if not ms:
        return f"{which}: no candidate was measured"
    device, runtime = mode(m.device for m in ms), mode(m.arm for m in ms)
    batch, px = mode(m.batch for m in ms), mode(m.resolution for m in ms)
    lines = (f"{which}: {device}", f"{runtime}; batch {batch}, {px} px")
    return "\n".join(_folded(line, TITLE_CHARACTERS) for line in lines)


@contextmanager
def _figure(inches: tuple[float, float], salt: str, path: Path) -> Iterator[Figure]:
    """Yield an empty figure and save it after the block; the salt makes the ids of an SVG reproducible."""
    with rc_context({**STYLE, "svg.hashsalt": salt}):
        figure = Figure(figsize=inches, layout="constrained", dpi=DPI)
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(path, dpi=DPI)


def _prepare(axes: Any) -> None:
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_steps(axes: Any, points: Sequence[tuple[float, float]], color: str, alpha: float = 1.0) -> None:
    if points:
        x, y = zip(*sorted(points, key=lambda xy: (xy[0], -xy[1])), strict=True)
        axes.step(x, y, where="pre", color=color, linewidth=1.0, alpha=alpha, zorder=1)


def _legend(figure: Any, looks: Sequence[PointLook], drawn: set[PointLook]) -> None:
    keys = [Line2D([], [], label=look.label, **look.line()) for look in looks if look in drawn]
    columns = min(LEGEND_COLUMNS, max(1, len(keys)))
    figure.legend(handles=keys, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)


def _label_score(axes: Any, study: StudyRecord) -> None:
    (score,) = (objective for objective in study.info.objectives if objective.name == "score")
    axes.set_ylabel(_folded(score.label, LABEL_CHARACTERS) + "\nhigher is better")


def _label_speed(axes: Any, measured: Sequence[Measurement], reference: str) -> None:
    """Label the speed axis in doublings, from the lowest ratio to the highest."""
    axes.set_xlabel(f"throughput, times {reference}'s, higher is better")
    ends = [end for m in measured for end in drawn_ends(m)]
    low, high = min(ends), max(ends)
    axes.set_xscale("log", base=2)
    axes.set_xlim(low / 1.15, high * 1.2)
    subs = (1.0,) if high / low > 4 else (1.0, 1.5) if high / low > 1.7 else (1.0, 1.25, 1.5, 1.75)
    axes.xaxis.set_major_locator(LogLocator(base=2, subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(y=0.12)


def _short_label(trial: TrialRecord) -> str:
    return trial.baseline or str(trial.number)


def _folded(text: str, characters: int) -> str:
    return "\n".join(textwrap.wrap(text, characters))
