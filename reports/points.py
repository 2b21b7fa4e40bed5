"""What the figures draw, prepared once for the interactive page (`figures`) and for papers (`plates`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from nas.records import Objective, Study, StudyInfo, TrialRecord, TrialState
from reports.axes import attainment_line, axis_range
from reports.labels import overlapping
from reports.meaning import metric_label, metric_names, metrics_of, taught, trained
from reports.objectives import axis, value_of
from reports.summary import Scored, StudySummary
from reports.wording import brief

FRONT, DOMINATED, STOPPED, INFEASIBLE, BASELINE = "on the front", "dominated", "stopped early", "infeasible", "baseline"
DRAWING_ORDER = (INFEASIBLE, STOPPED, DOMINATED, FRONT, BASELINE)  # later ones lie on top
LABELLED_FRONT = 40  # with more, hardly a label is legible
TEACHER_ROWS = 16
SCATTERED, SCATTERED_MOST = 10, 1000  # nets: fewer make no picture of a correlation, more make a slow page


@dataclass(frozen=True)
class Look:
    """How one kind of point is told apart: by shape and by colour (Okabe and Ito's colour-blind-safe palette)."""

    css: str  # custom property that the page's light and dark themes set
    paper: str  # colour on white
    vega_shape: str
    plate_marker: str
    filled: bool


LOOKS = {
    FRONT: Look("var(--front)", "#0072b2", "circle", "o", True),
    DOMINATED: Look("var(--dominated)", "#8a9099", "circle", "o", True),
    STOPPED: Look("var(--stopped)", "#8a9099", "triangle-down", "v", False),
    INFEASIBLE: Look("var(--infeasible)", "#b8470b", "M-0.7,-0.7L0.7,0.7M0.7,-0.7L-0.7,0.7", "x", False),
    BASELINE: Look("var(--baseline)", "#c77a00", "diamond", "D", True),
}
SERIES = (("var(--s1)", "#0072b2"), ("var(--s2)", "#c77a00"), ("var(--s3)", "#007f5f"), ("var(--s4)", "#a8557f"),
          ("var(--s5)", "#4b5563"), ("var(--s6)", "#b8470b"))  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One net in the plane of the objectives; `quality` is None for nets that were never trained."""

    number: int
    net: str
    kind: str
    quality: float | None
    ratio: float
    ratio_low: float
    ratio_high: float
    img_s: float
    rung: int | None
    label: str
    third: float | None = None  # of a third objective, where the study has one


@dataclass(frozen=True)
class Scatter:
    """Quality against one further metric; a point is (number, net, kind, quality, value)."""

    name: str
    label: str
    points: tuple[tuple[int, str, str, float, float], ...]

    @property
    def step(self) -> int:
        """On the page, of nets that are neither on the front nor baselines every so many-th is drawn."""
        others = sum(kind not in (FRONT, BASELINE) for _, _, kind, _, _ in self.points)
        return max(1, -(-others // SCATTERED_MOST))


@dataclass(frozen=True)
class Rise:
    """A teacher's explained variance by steps; a point is (number, net, kind, steps, `taught`)."""

    teacher: str
    points: tuple[tuple[int, str, str, int, float], ...]


@dataclass(frozen=True)
class FigureData:
    """Rows of all figures, plain enough for JSON."""

    quality: Objective
    speed: Objective
    points: tuple[Point, ...]
    staircase: tuple[
        tuple[float, float], ...
    ]  # (ratio, quality), slowest first, from the reference's corner to its corner
    quality_range: tuple[float, float]
    ratio_range: tuple[float, float]
    reference_inside: bool  # whether the ranges hold the hypervolume's reference point
    curve: tuple[tuple[int, float | None, float], ...]  # (evaluations, seconds, hypervolume)
    baseline_hypervolume: float
    ledger: tuple[tuple[str, float], ...]  # (purpose, seconds), largest first
    teachers: tuple[tuple[str, str, str, float], ...]  # (net, teacher, head, explained variance), best net first
    metrics: tuple[Scatter, ...]
    rises: tuple[Rise, ...]
    third: Objective | None = None
    single: Objective | None = None  # of a study with one objective: a front has no picture there
    chance: tuple[float, ...] = ()  # hypervolume to expect of the first 1, 2, ... random trainings

    def datasets(self) -> dict[str, list[dict[str, Any]]]:
        """Named data sets of the interactive charts."""
        return {
            "points": [asdict(p) for p in self.points],
            "picked": [],  # the page fills it
            "chance": [{"evaluations": n, "hypervolume": v} for n, v in enumerate(self.chance, start=1)],
            "staircase": [{"ratio": x, "quality": y, "order": i} for i, (x, y) in enumerate(self.staircase)],
            "curve": [
                {"evaluations": n, "seconds": s, "hypervolume": v, "improved": v > before}
                for (n, s, v), before in zip(self.curve, [0.0, *(c[2] for c in self.curve)], strict=False)
            ],
            "ledger": [{"purpose": p, "seconds": s} for p, s in self.ledger],
            "teachers": [{"net": n, "teacher": t, "head": h, "quality": q} for n, t, h, q in self.teachers],
            "metrics": [
                {"which": i, "number": number, "net": net, "kind": kind, "quality": quality, "value": value}
                for i, scatter in enumerate(self.metrics)
                for number, net, kind, quality, value in scatter.points
            ],
            "rises": [
                {"which": i, "number": number, "net": net, "kind": kind, "steps": steps, "quality": quality}
                for i, rise in enumerate(self.rises)
                for number, net, kind, steps, quality in rise.points
            ],
        }


def prepare(study: Study, summary: StudySummary) -> FigureData:
    """Rows of every figure of the study."""
    quality, speed = (_worded(axis(study.info, name)) for name in ("quality", "throughput"))
    third = next((_worded(o) for o in study.info.objectives if o.name not in ("quality", "throughput")), None)
    plane = third is None and len(study.info.objectives) == 2  # only there a step line says what is dominated
    front = {s.trial.number for s in summary.front}
    found = (p for t in study.trials if (p := _point(t, front, third)) is not None)
    points: Sequence[Point] = sorted(found, key=lambda p: DRAWING_ORDER.index(p.kind))
    reference = (speed.reference, quality.reference)
    ends = [end for p in points if p.kind in (FRONT, BASELINE) for end in (p.ratio_low, p.ratio_high) if end > 0]
    ratio_range, has_ratio = axis_range([*(p.ratio for p in points), *ends], reference[0], log=speed.log)
    quality_range, has_quality = axis_range([p.quality for p in points if p.quality is not None], reference[1])
    front_by_speed = sorted((p for p in points if p.kind == FRONT), key=lambda p: p.ratio)
    ends_first = [*front_by_speed[:1], *front_by_speed[-1:], *front_by_speed[1:-1]]
    named = [p for p in (*(p for p in points if p.kind == BASELINE), *ends_first) if p.label]
    crowded = overlapping(named, ratio_range, quality_range)
    return FigureData(
        quality=quality,
        speed=speed,
        points=tuple(replace(p, label="") if p in crowded else p for p in points),
        staircase=attainment_line(
            summary.front if plane else (), max(reference[0], ratio_range[0]), max(reference[1], quality_range[0])
        ),
        quality_range=quality_range,
        ratio_range=ratio_range,
        reference_inside=plane and has_ratio and has_quality,
        curve=tuple((c.evaluations, c.seconds, c.hypervolume) for c in summary.curve),
        baseline_hypervolume=summary.baseline_hypervolume,
        ledger=tuple((brief(row.purpose, 100), row.seconds) for row in summary.ledger),
        teachers=_teacher_rows(summary),
        metrics=_scatters(summary, front),
        rises=_rises(study.info, summary, front),
        third=third,
        single=_worded(study.info.objectives[0]) if len(study.info.objectives) == 1 else None,
        chance=() if summary.chance_start is None else summary.chance_start.expected,
    )


def _worded(objective: Objective) -> Objective:
    return replace(objective, label=brief(objective.label), unit=brief(objective.unit, 40))


def _point(trial: TrialRecord, front: set[int], third: Objective | None) -> Point | None:
    m, kind = trial.measurement, _kind(trial, front)
    if kind is None or m is None or not m.ratio > 0 or not math.isfinite(m.ratio):
        return None
    quality = None if kind == INFEASIBLE else trial.quality
    if kind != INFEASIBLE and (quality is None or not math.isfinite(quality)):
        return None
    labelled = kind == BASELINE or (kind == FRONT and len(front) <= LABELLED_FRONT)
    name = brief(trial.name, 100)
    label = "" if not labelled else name.replace("trial ", "#") if kind == FRONT else brief(name, 24)
    rung = trial.rungs[-1].rung if trial.rungs else None
    return Point(trial.number, name, kind, quality, m.ratio, m.ratio_low, m.ratio_high, m.throughput_img_s,
                 rung, label, _third(trial, third) if third else None)  # fmt: skip


def _third(trial: TrialRecord, third: Objective) -> float | None:
    """What has a place on its axis."""
    value = value_of(trial, third.name)
    return None if value is None or (third.log and value <= 0) else value


def _kind(trial: TrialRecord, front: set[int]) -> str | None:
    if trial.baseline:
        return BASELINE if trial.state is TrialState.COMPLETE else None
    if trial.state is TrialState.COMPLETE:
        return FRONT if trial.number in front else DOMINATED
    return {TrialState.STOPPED: STOPPED, TrialState.INFEASIBLE: INFEASIBLE}.get(trial.state)


def _teacher_rows(summary: StudySummary) -> tuple[tuple[str, str, str, float], ...]:
    return tuple(
        (brief(net.name, 100), brief(teacher, 100), brief(head, 60), value)
        for net in _some_nets(summary)
        for teacher, heads in net.trial.rungs[-1].teachers.items()
        for head, value in heads.items()
    )


def _some_nets(summary: StudySummary) -> list[Scored]:
    """Nets of the front, not too many, and the baselines, best first."""
    front = sorted(summary.front, key=lambda s: -s.quality)
    step = max(1, math.ceil(len(front) / TEACHER_ROWS))
    return sorted([*front[::step], *(b.scored for b in summary.baselines)], key=lambda s: -s.quality)


def _scatters(summary: StudySummary, front: set[int]) -> tuple[Scatter, ...]:
    nets = trained(summary)
    scatters = []
    for name in metric_names(nets):
        points = tuple(
            (net.trial.number, brief(net.name, 100), kind, net.quality, metrics_of(net)[name])
            for net in nets
            if name in metrics_of(net) and (kind := _kind(net.trial, front)) is not None
        )
        if len(points) >= SCATTERED:
            scatters.append(Scatter(name, brief(metric_label(name), 60), points))
    return tuple(scatters)


def _rises(info: StudyInfo, summary: StudySummary, front: set[int]) -> tuple[Rise, ...]:
    """By teacher, of the nets of the teachers' figure; none where all nets were trained to one length."""
    points: dict[str, list[tuple[int, str, str, int, float]]] = {}
    for net in _some_nets(summary):
        kind = _kind(net.trial, front)
        for rung in net.trial.rungs if len(net.trial.rungs) > 1 and kind is not None else ():
            for teacher, heads in rung.teachers.items():
                value = taught(heads, info)
                if kind is not None and math.isfinite(value):
                    points.setdefault(teacher, []).append(
                        (net.trial.number, brief(net.name, 100), kind, rung.steps, value)
                    )
    return tuple(Rise(brief(teacher, 60), tuple(of_teacher)) for teacher, of_teacher in points.items())
