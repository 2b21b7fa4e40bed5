"""The rows that figures draw, prepared once for the interactive charts (`charts`) and for `paper_figures`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from nas.analysis.recommendation import Recommendation
from nas.numbers import fixed
from nas.study.metrics import metric_label
from nas.study.records import Objective, StudyInfo, StudyRecord, TrialRecord, TrialState
from nas.study.timing_doubts import PUBLISHED, drawn_ends
from reports.formatting import brief
from reports.label_sides import label_rise, label_sides
from reports.metric_agreement import metric_names, metrics_of, teacher_score, trained_models
from reports.scored_trials import ScoredTrial, axis, score_word, value_of
from reports.summary import StudySummary

FRONT, DOMINATED, STOPPED = "Pareto front", "dominated", "early-stopped"
BEST = "best"  # shown in place of FRONT where the study has one objective
INFEASIBLE, BASELINE = "infeasible", "baseline"
DRAWING_ORDER = (INFEASIBLE, STOPPED, DOMINATED, FRONT, BASELINE)  # the last one is drawn on top
MAX_LABELS = 40  # of trials on the front; with more, hardly a label can be read
MAX_TEACHER_ROWS = 16
MIN_SCATTERED = 10  # models in a scatter chart; fewer show no correlation
MAX_SCATTERED = 1000  # dominated models in a scatter chart; more make the page slow
MAX_CURVES = 1000  # learning curves of candidates that are not on the front
SCALE_DOUBLINGS = 2.0  # by which the axis of throughput is extended at most, to show comparison networks
MIN_AXIS_SPAN = 0.02  # of scores, or doublings of a throughput
CHART_PX = 820, 370  # inside the axes, on a desktop
NARROW_CHART_PX = 280  # likewise on a phone


@dataclass(frozen=True)
class MarkStyle:
    """Shape and color of one kind of point, from the colorblind-safe palette of Okabe and Ito."""

    css: str  # custom property that the page's light and dark themes set
    paper: str  # color on white
    vega_shape: str
    matplotlib_marker: str
    filled: bool


MARKS = {
    FRONT: MarkStyle("var(--front)", "#0072b2", "circle", "o", True),
    DOMINATED: MarkStyle("var(--dominated)", "#8a9099", "circle", "o", True),
    STOPPED: MarkStyle("var(--stopped)", "#8a9099", "triangle-down", "v", False),
    INFEASIBLE: MarkStyle("var(--infeasible)", "#b8470b", "M-0.7,-0.7L0.7,0.7M0.7,-0.7L-0.7,0.7", "x", False),
    BASELINE: MarkStyle("var(--baseline)", "#c77a00", "diamond", "D", True),
}
SERIES = (("var(--s1)", "#0072b2"), ("var(--s2)", "#c77a00"), ("var(--s3)", "#007f5f"), ("var(--s4)", "#a8557f"),
          ("var(--s5)", "#4b5563"), ("var(--s6)", "#b8470b"))  # fmt: skip


PREDICTED = "predicted, not measured"


@dataclass(frozen=True)
class CandidatePoint:
    """One trial in the plane of throughput and score; `score` is None for a candidate that was never trained."""

    number: int
    name: str
    kind: str
    score: float | None
    ratio: float
    ratio_low: float | None  # None for a throughput that is only predicted
    ratio_high: float | None
    img_s: float | None
    rung: int | None
    label: str
    further: tuple[float | None, ...] = ()  # values of the objectives `FigureData.further`
    note: str | None = None  # how its throughput is known, if it was not measured

    def row(self) -> dict[str, Any]:
        """Return the point as a row of a data set, with a field "further_N" for each further objective."""
        fields = asdict(self)
        return fields | {f"further_{i}": value for i, value in enumerate(fields.pop("further"))}


@dataclass(frozen=True)
class PointLabel:
    """The label of one point, at the side where it has room in a wide or in a narrow chart."""

    number: int
    text: str
    ratio: float
    score: float
    right: int  # 1 is right of the point, -1 left of it, 0 centered
    rise_px: int  # from the point up to the middle of the label
    narrow: bool


@dataclass(frozen=True)
class ComparisonNetwork:
    """A known network that was measured and not distilled, for comparison on the axis of throughput."""

    name: str
    ratio: float
    inside: bool  # whether the axis of throughput reaches it


@dataclass(frozen=True)
class MetricScatter:
    """The distillation score against one metric; a point is (number, name, kind, score, value)."""

    name: str
    label: str
    points: tuple[tuple[int, str, str, float, float], ...]

    @property
    def step(self) -> int:
        """Return n, where the page draws every n-th model that is neither on the front nor a baseline."""
        others = sum(kind not in (FRONT, BASELINE) for _, _, kind, _, _ in self.points)
        return max(1, -(-others // MAX_SCATTERED))


@dataclass(frozen=True)
class LearningCurves:
    """A teacher's explained variance by training steps; a point is (number, name, kind, steps, `teacher_score`)."""

    teacher: str
    points: tuple[tuple[int, str, str, int, float], ...]


@dataclass(frozen=True)
class FigureData:
    """Rows of all figures, plain enough for JSON."""

    score: Objective
    score_word: str  # what the score is called
    throughput: Objective
    points: tuple[CandidatePoint, ...]
    labels: tuple[PointLabel, ...]
    recommended: int | None  # number of the trial
    staircase: tuple[tuple[float, float], ...]  # `attainment_line` of (ratio, score)
    score_range: tuple[float, float]  # without the early-stopped candidates
    score_range_of_all: tuple[float, float]
    ratio_range: tuple[float, float]
    throughput_title: str  # with what was measured, and where
    scale: tuple[ComparisonNetwork, ...]
    curve: tuple[tuple[int, float | None, float], ...]  # (evaluations, seconds, hypervolume)
    baseline_hypervolume: float
    time_spent: tuple[tuple[str, float], ...]  # (purpose, seconds), largest first
    teachers: tuple[tuple[str, str, str, float], ...]  # (name, teacher, head, explained variance), best model first
    metrics: tuple[MetricScatter, ...]
    learning_curves: tuple[LearningCurves, ...]
    score_curves: tuple[tuple[int, str, str, int, float], ...]  # (number, name, kind, steps, score) of all candidates
    further: tuple[Objective, ...] = ()  # those other than score and throughput
    single: Objective | None = None  # the objective of a study with only one, which has no chart of a front

    @property
    def curve_step(self) -> int:
        """Return n, where the page draws the curve of every n-th candidate that is not on the front."""
        others = len({number for number, _, kind, _, _ in self.score_curves if kind not in (FRONT, BASELINE)})
        return max(1, -(-others // MAX_CURVES))

    @property
    def curve_label(self) -> str:
        """Return what the curve shows: the hypervolume, or the best value of the only objective."""
        return "hypervolume" if self.single is None else f"best {brief(self.single.label)}"

    @property
    def stopped(self) -> int:
        """Return the number of early-stopped candidates in the chart of the front."""
        return sum(p.kind == STOPPED for p in self.points)

    def datasets(self) -> dict[str, list[dict[str, Any]]]:
        """Return the named data sets of the interactive charts."""
        return {
            "points": [p.row() for p in self.points],
            "labels": [asdict(label) for label in self.labels],
            "picked": [],  # filled by the page's script
            "scale": [{"name": s.name, "ratio": s.ratio} for s in self.scale if s.inside],
            "staircase": [{"ratio": x, "score": y, "order": i} for i, (x, y) in enumerate(self.staircase)],
            "curve": [
                {"evaluations": n, "seconds": s, "hypervolume": v, "improved": v > before}
                for (n, s, v), before in zip(self.curve, [0.0, *(c[2] for c in self.curve)], strict=False)
            ],
            "time-spent": [{"purpose": p, "seconds": s} for p, s in self.time_spent],
            "teachers": [{"name": n, "teacher": t, "head": h, "score": q} for n, t, h, q in self.teachers],
            "metrics": [
                {"which": i, "number": number, "name": name, "kind": kind, "score": score, "value": value}
                for i, scatter in enumerate(self.metrics)
                for number, name, kind, score, value in scatter.points
            ],
            "score-curves": [
                {"number": number, "name": name, "kind": kind, "steps": steps, "score": score}
                for number, name, kind, steps, score in self.score_curves
            ],
            "learning-curves": [
                {"which": i, "number": number, "name": name, "kind": kind, "steps": steps, "score": score}
                for i, curves in enumerate(self.learning_curves)
                for number, name, kind, steps, score in curves.points
            ],
        }


def prepare(study: StudyRecord, summary: StudySummary) -> FigureData:
    """Prepare the rows of every figure of a study."""
    info = study.info
    score, throughput = (_shortened(axis(info, name)) for name in ("score", "throughput"))
    further = tuple(_shortened(o) for o in info.objectives if o.name not in ("score", "throughput"))
    two_axes = not further and len(info.objectives) == 2  # else the front is no line in this plane
    front = {s.trial.number for s in summary.front}
    points = sorted(
        (p for t in study.trials if (p := _point(t, front, further)) is not None),
        key=lambda p: DRAWING_ORDER.index(p.kind),
    )
    ends = [end for p in points if p.kind in (FRONT, BASELINE) for end in (p.ratio_low, p.ratio_high) if end]
    scale = _comparison_networks(study, [p.ratio for p in points])
    ratios = [*(p.ratio for p in points), *ends, *(s.ratio for s in scale if s.inside)]
    ratio_range = axis_range(ratios, throughput.log)
    of_all = [p.score for p in points if p.score is not None]
    comparable = [p.score for p in points if p.score is not None and p.kind != STOPPED]
    score_range = axis_range(comparable or of_all)
    staircase = attainment_line(summary.front if two_axes else (), ratio_range[0], score_range[0])
    recommended = summary.recommendation.trial.number if summary.recommendation else None
    if any(p.number == recommended and p.kind == STOPPED for p in points):
        recommended = None  # by retraining; its score in the search is of a lower rung, and is not marked
    ring = {} if recommended is None else {recommended: _ring_label(summary.recommendation)}
    labels = [
        label
        for width_px in (CHART_PX[0], NARROW_CHART_PX)
        for label in _placed_labels(points, ring, staircase, (ratio_range, score_range), width_px)
    ]
    return FigureData(
        score=score,
        score_word=score_word(info),
        throughput=throughput,
        points=tuple(points),
        labels=tuple(labels),
        recommended=recommended,
        staircase=staircase,
        score_range=score_range,
        score_range_of_all=axis_range(of_all),
        ratio_range=ratio_range,
        throughput_title=throughput_title(study),
        scale=scale,
        curve=tuple((c.evaluations, c.seconds, c.hypervolume) for c in summary.curve),
        baseline_hypervolume=summary.baseline_hypervolume,
        time_spent=tuple((brief(row.purpose, 100), row.seconds) for row in summary.time_spent),
        teachers=_teacher_rows(summary),
        metrics=_scatters(summary, front),
        learning_curves=_learning_curves(info, summary, front),
        score_curves=_score_curves(study, front),
        further=further,
        single=_shortened(info.objectives[0]) if len(info.objectives) == 1 else None,
    )


def throughput_title(study: StudyRecord) -> str:
    """Return the title of the throughput axis: "throughput / eradio_pico, 64 px, batch 16, CPU"."""
    title = f"throughput / {brief(study.info.reference, 40)}"
    m = next((t.measurement for t in study.trials if t.measurement is not None), None)
    if m is None or m.arm == PUBLISHED:
        return title
    devices = study.info.environment.get("device"), study.info.config.get("device")  # as recorded, as asked for
    device = "CPU" if "cpu" in devices else brief(m.device, 40)
    return f"{title}, {m.resolution} px, batch {m.batch}, {device}"


def _comparison_networks(study: StudyRecord, ratios: Sequence[float]) -> tuple[ComparisonNetwork, ...]:
    """Return the comparison networks that were measured, fastest first; the axis is extended only a little for them."""
    reach = 2**SCALE_DOUBLINGS
    low, high = min(ratios, default=1.0) / reach, max(ratios, default=1.0) * reach
    measured = [(t.name, t.measurement.ratio) for t in study.scale if t.measurement and t.measurement.ratio > 0]
    models = [ComparisonNetwork(brief(name, 40), ratio, low <= ratio <= high) for name, ratio in measured]
    return tuple(sorted(models, key=lambda model: -model.ratio))


def axis_range(values: Sequence[float], log: bool = False) -> tuple[float, float]:
    """Return the range of an axis: that of the values with a margin, wide enough for ticks of different labels."""
    if log:
        low, high = axis_range([math.log2(v) for v in values])
        return 2**low, 2**high
    low = min(values, default=0.0)
    high = max(values, default=low + 1)
    margin = max(0.06 * (high - low), (MIN_AXIS_SPAN - (high - low)) / 2)
    return low - margin, high + margin


def attainment_line(front: Iterable[ScoredTrial], ratio: float, score: float) -> tuple[tuple[float, float], ...]:
    """Return the front's attainment line as (ratio, score) points, slowest first.

    It is drawn in steps that drop before the next point, and ends at the reference (`ratio`, `score`) on both sides.
    """
    points = sorted((s.ratio, s.score) for s in front)
    if not points:
        return ()
    start, end = (min(ratio, points[0][0]), points[0][1]), (points[-1][0], min(score, points[-1][1]))
    return (start, *points, end)


def _ring_label(found: Recommendation | None) -> str:
    """Return the label of the ring; where longer trainings decide, with their score, as the chart has the search's.

    Args:
        found: the recommendation.
    """
    if found is None:
        return ""
    after = f" ({fixed(found.model.score, 3)} after longer training)" if found.retrained else ""
    return f"#{found.trial.number} {found.word}{after}"


def _placed_labels(
    points: Sequence[CandidatePoint],
    ring: Mapping[int, str],
    staircase: Sequence[tuple[float, float]],
    ranges: tuple[tuple[float, float], tuple[float, float]],
    width_px: int,
) -> list[PointLabel]:
    """Place the labels that have room in a chart of `width_px`; `ring` has that of the recommended candidate.

    The recommended candidate comes first, then the baselines and both ends of the front, whose labels may cover points.
    """
    ratios, scores = ranges
    across, up = width_px / math.log2(ratios[1] / ratios[0]), CHART_PX[1] / (scores[1] - scores[0])

    def place(ratio: float, score: float) -> tuple[float, float]:
        return across * math.log2(ratio / ratios[0]), up * (score - scores[0])

    def of(p: CandidatePoint) -> tuple[float, float]:
        return place(p.ratio, p.score or 0.0)

    front = sorted((p for p in points if p.kind == FRONT), key=lambda p: p.ratio)
    best = [p for p in points if p.number in ring]
    important = [*best, *(p for p in points if p.kind == BASELINE), *front[:1], *front[-1:]]
    texts = {p.number: p.label for p in (*important, *front) if p.label}  # in this order
    narrow = width_px == NARROW_CHART_PX
    texts |= {p.number: f"#{p.number}" if narrow else ring[p.number] for p in best}  # the ring says it, too
    by_number = {p.number: p for p in points}
    labeled = [(of(by_number[number]), text) for number, text in texts.items()]
    marks = [of(p) for p in points if p.score is not None and p.kind != STOPPED]
    many = len({p.number for p in important if p.number in texts})
    sides = label_sides(labeled, marks, [place(*corner) for corner in staircase], width_px, many)
    return [
        PointLabel(
            number, text, by_number[number].ratio, by_number[number].score or 0.0, side[0], label_rise(side), narrow
        )
        for (number, text), side in zip(texts.items(), sides, strict=True)
        if side is not None
    ]


def _shortened(objective: Objective) -> Objective:
    return replace(objective, label=brief(objective.label), unit=brief(objective.unit, 40))


def _point(trial: TrialRecord, front: set[int], further: Sequence[Objective]) -> CandidatePoint | None:
    m, kind = trial.measurement, _kind(trial, front)
    ratio = m.ratio if m is not None else trial.predicted_ratio
    if kind is None or ratio is None or not ratio > 0 or not math.isfinite(ratio):
        return None
    score = None if kind == INFEASIBLE else trial.score
    if kind != INFEASIBLE and (score is None or not math.isfinite(score)):
        return None
    labeled = kind == BASELINE or (kind == FRONT and len(front) <= MAX_LABELS)
    name = brief(trial.name, 100)
    label = "" if not labeled else name.replace("trial ", "#") if kind == FRONT else brief(name, 24)
    rung = trial.rungs[-1].rung if trial.rungs else None
    low, high, img_s = (None, None, None) if m is None else (*drawn_ends(m), m.throughput_img_s)
    values = tuple(_value_on_axis(trial, objective) for objective in further)
    note = PREDICTED if m is None else None
    return CandidatePoint(trial.number, name, kind, score, ratio, low, high, img_s, rung, label, values, note)


def _value_on_axis(trial: TrialRecord, objective: Objective) -> float | None:
    value = value_of(trial, objective.name)
    return None if value is None or (objective.log and value <= 0) else value


def _kind(trial: TrialRecord, front: set[int]) -> str | None:
    if trial.baseline:
        return BASELINE if trial.state is TrialState.COMPLETE else None
    if trial.state is TrialState.COMPLETE:
        return FRONT if trial.number in front else DOMINATED
    return {TrialState.STOPPED: STOPPED, TrialState.INFEASIBLE: INFEASIBLE}.get(trial.state)


def thinned_front(summary: StudySummary) -> list[ScoredTrial]:
    """Return at most `MAX_TEACHER_ROWS` models of the front, evenly spaced by score, best first."""
    front = sorted(summary.front, key=lambda s: -s.score)
    return front[:: max(1, math.ceil(len(front) / MAX_TEACHER_ROWS))]


def _teacher_rows(summary: StudySummary) -> tuple[tuple[str, str, str, float], ...]:
    return tuple(
        (brief(model.name, 100), brief(teacher, 100), brief(head, 60), value)
        for model in _front_and_baselines(summary)
        for teacher, heads in model.trial.rungs[-1].teachers.items()
        for head, value in heads.items()
    )


def _front_and_baselines(summary: StudySummary) -> list[ScoredTrial]:
    """Return the baselines and `thinned_front`, best first."""
    return sorted([*thinned_front(summary), *(b.scored for b in summary.baselines)], key=lambda s: -s.score)


def _scatters(summary: StudySummary, front: set[int]) -> tuple[MetricScatter, ...]:
    models = trained_models(summary)
    scatters = []
    for name in metric_names(models):
        points = tuple(
            (model.trial.number, brief(model.name, 100), kind, model.score, metrics_of(model)[name])
            for model in models
            if name in metrics_of(model) and (kind := _kind(model.trial, front)) is not None
        )
        if len(points) >= MIN_SCATTERED:
            scatters.append(MetricScatter(name, brief(metric_label(name), 60), points))
    return tuple(scatters)


def _score_curves(study: StudyRecord, front: set[int]) -> tuple[tuple[int, str, str, int, float], ...]:
    """Return the score at every rung of all trials that reached one; none for a study with one rung."""
    if len(study.info.rung_steps) < 2:
        return ()
    return tuple(
        (trial.number, brief(trial.name, 100), kind, rung.steps, rung.score)
        for trial in study.trials
        if (kind := _kind(trial, front)) is not None
        for rung in trial.rungs
        if math.isfinite(rung.score)
    )


def _learning_curves(info: StudyInfo, summary: StudySummary, front: set[int]) -> tuple[LearningCurves, ...]:
    """Return the learning curves of `_front_and_baselines` by teacher; none for a study with one rung."""
    points: dict[str, list[tuple[int, str, str, int, float]]] = {}
    for model in _front_and_baselines(summary):
        number, name, kind = model.trial.number, brief(model.name, 100), _kind(model.trial, front)
        if kind is None or len(model.trial.rungs) < 2:
            continue
        for rung in model.trial.rungs:
            for teacher, heads in rung.teachers.items():
                value = teacher_score(heads, info)
                if math.isfinite(value):
                    points.setdefault(teacher, []).append((number, name, kind, rung.steps, value))
    return tuple(LearningCurves(brief(teacher, 60), tuple(rows)) for teacher, rows in points.items())
