"""Trials with values of all objectives: the points of Pareto fronts and comparisons.

A study's objectives are the distillation score and throughput by default. A study can also have the score alone, or
further objectives: values from `nas.study.objectives`, metrics of the last rung, or fields of the measurement.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nas.study import pareto
from nas.study.objectives import OBJECTIVES, SCORE_LABELS
from nas.study.records import Objective, StudyInfo, TrialRecord
from reports.formatting import brief

SCORE_WORD = "distillation score"
MAX_SCORE_CHARACTERS = 45  # of a published score's name, which is the title of an axis


@dataclass(frozen=True)
class ScoredTrial:
    """A trial that was trained to the last rung and measured."""

    trial: TrialRecord
    score: float  # distillation score at the last rung
    ratio: float  # throughput relative to the reference backbone, timed in pairs
    ratio_low: float
    ratio_high: float
    values: tuple[float, ...] = ()  # of the study's objectives on the axes of `pareto.coordinate`: more is better

    @property
    def name(self) -> str:
        """Return the baseline's architecture name, or "trial N"."""
        return self.trial.name


def axis(info: StudyInfo, name: str) -> Objective:
    """Return the objective "score" or "throughput", also for a study that measures it without optimizing it."""
    return next((o for o in info.objectives if o.name == name), OBJECTIVES[name].objective)


def has_published_score(info: StudyInfo) -> bool:
    """Tell whether a study's score is another value of a table than the distillation score, as an accuracy."""
    return info.replayed and axis(info, "score").label not in SCORE_LABELS.values()


def score_word(info: StudyInfo) -> str:
    """Return what the report calls a study's score: "distillation score", or the label of a published value."""
    if has_published_score(info):
        return brief(axis(info, "score").label, MAX_SCORE_CHARACTERS)
    return SCORE_WORD


def objective_words(info: StudyInfo) -> dict[str, str]:
    """Return what the report calls each of a study's objectives, by the objective's name."""
    words = {"score": score_word(info), "throughput": "throughput"}
    return {o.name: words.get(o.name) or brief(o.label) for o in info.objectives}


def value_of(trial: TrialRecord, name: str) -> float | None:
    """Return a measured trial's value of an objective at the highest rung reached; None where it has none.

    A name that is not in `nas.study.objectives` is a metric of the rung or a field of the measurement.
    """
    if trial.measurement is None:
        return None
    last, spec = trial.rungs[-1:], OBJECTIVES.get(name)
    value: Any = None
    if spec is None:
        metrics = last[0].metrics if last else {}
        value = metrics.get(name, getattr(trial.measurement, name, None))
    elif last or not spec.trained:
        value = spec.value(trial, max(len(trial.rungs) - 1, 0))
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def coordinate_of(trial: TrialRecord, objective: Objective) -> float | None:
    """Return the trial's place on the objective's axis, more being better; None where it has none."""
    value = value_of(trial, objective.name)
    if value is None or (objective.log and value <= 0):
        return None
    return pareto.coordinate(objective, value)


def score_trials(trials: Iterable[TrialRecord], info: StudyInfo) -> tuple[ScoredTrial, ...]:
    """Return the trials that reached the last rung with finite values of all objectives."""
    scored = []
    for trial in trials:
        m, score = trial.measurement, trial.final_score
        if m is None or not math.isfinite(score) or len(trial.rungs) < len(info.rung_steps):
            continue
        places = [coordinate_of(trial, objective) for objective in info.objectives]
        values = tuple(place for place in places if place is not None)
        if math.isfinite(m.ratio) and m.ratio > 0 and len(values) == len(places):
            scored.append(ScoredTrial(trial, score, m.ratio, m.ratio_low, m.ratio_high, values))
    return tuple(scored)


def pareto_front(scored: Sequence[ScoredTrial]) -> tuple[ScoredTrial, ...]:
    """Return the trials that no other dominates, fastest first, equal ones included.

    With one objective these are its best.
    """
    on_front = [scored[i] for i in pareto.front([s.values for s in scored])]
    return tuple(sorted(on_front, key=lambda s: (-s.ratio, -s.score, s.trial.number)))


def dominators(point: ScoredTrial, others: Sequence[ScoredTrial]) -> tuple[int, ...]:
    """Return the numbers of the other trials that dominate `point`."""
    return tuple(
        s.trial.number
        for s in others
        if s.values != point.values and all(a >= b for a, b in zip(s.values, point.values, strict=True))
    )


def hypervolume(scored: Iterable[ScoredTrial], info: StudyInfo) -> float:
    """Return the hypervolume above the study's reference point; logarithmic axes count doublings (log2)."""
    return pareto.hypervolume([s.values for s in scored], pareto.reference_point(info.objectives))
