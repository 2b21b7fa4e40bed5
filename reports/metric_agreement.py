"""Downstream metrics of the trained models: their agreement with the distillation score, chance, and teachers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.analysis.agreement import RankCorrelation, kendall, rank_correlation
from nas.study.metrics import METRICS, metric_label
from nas.study.records import HeadFacts, StudyInfo
from reports.scored_trials import ScoredTrial
from reports.search_course import MIN_RANKED
from reports.summary import StudySummary

AGREEMENT_TAU, MAX_P_VALUE = 0.3, 0.05  # from which the score is said to rank models as a metric does
NEAR_CHANCE_SHARE, NEAR_CHANCE_TIMES = 0.1, 2.0  # of the way from chance to 1, and times chance: both are upper bounds


@dataclass(frozen=True)
class MetricSummary:
    """One metric over the models that have it."""

    name: str
    label: str
    models: int
    tau: float | None  # Kendall's tau-b with the distillation score
    p_value: float | None
    on_front: RankCorrelation  # of the models on the front alone, of which one is chosen
    best: float
    best_model: str
    baseline: float | None  # value of the best baseline
    teacher: str | None  # the teacher whose own features do best
    teacher_value: float | None
    chance: float | None
    seed_noise: float | None = None  # standard deviation between retrainings with other seeds

    @property
    def agrees(self) -> bool:
        """Tell whether the score ranks the models as the metric does, by more than chance."""
        return self.tau is not None and self.tau >= AGREEMENT_TAU and self._significant

    @property
    def agrees_weakly(self) -> bool:
        """Tell whether the two rankings are alike by more than chance, but only a little."""
        return self.tau is not None and 0 < self.tau < AGREEMENT_TAU and self._significant

    @property
    def contradicts(self) -> bool:
        """Tell whether the score ranks the models in the opposite order, by more than chance."""
        return self.tau is not None and self.tau < 0 and self._significant

    @property
    def agrees_on_front(self) -> bool:
        """Tell whether the score ranks the models on the front as the metric does: the interval leaves out 0."""
        return self.on_front.candidates >= MIN_RANKED and (self.on_front.low or 0.0) > 0

    @property
    def teacher_near_chance(self) -> bool:
        """Tell whether even the best teacher hardly differs from a constant guess."""
        return near_chance(self.teacher_value, self.chance)

    @property
    def models_near_chance(self) -> bool:
        """Tell whether even the best model hardly differs from a constant guess."""
        return near_chance(self.best, self.chance)

    @property
    def _significant(self) -> bool:
        return self.models >= MIN_RANKED and (self.p_value or 0.0) < MAX_P_VALUE


@dataclass(frozen=True)
class HeadSummary:
    """One head of a teacher: its distillation targets, and the best score that a model reached on them."""

    teacher: str
    head: str
    facts: HeadFacts | None  # None in studies that did not record it
    best: float | None
    best_model: str


def scores_spatial(info: StudyInfo) -> bool:
    """Tell whether the distillation score counts the teachers' spatial features alone, not all heads."""
    return bool(info.config.get("distill", {}).get("score") == "spatial")


def teacher_score(heads: Mapping[str, float], info: StudyInfo) -> float:
    """Return a teacher's part of the distillation score; NaN where it is unknown.

    Args:
        heads: explained variance by head of the teacher.
        info: description of the study, which says what the score counts.
    """
    if scores_spatial(info) and "spatial" in heads:
        return heads["spatial"]
    return sum(heads.values()) / len(heads) if heads else math.nan


def trained_models(summary: StudySummary) -> tuple[ScoredTrial, ...]:
    """Return all models trained to the last rung, baselines included: the recipe is the same."""
    return (*summary.complete, *(b.scored for b in summary.baselines))


def metrics_of(model: ScoredTrial) -> dict[str, float]:
    """Return the finite metrics of a model's last rung."""
    return {name: value for name, value in model.trial.rungs[-1].metrics.items() if math.isfinite(value)}


def metric_names(models: Iterable[ScoredTrial]) -> tuple[str, ...]:
    """Return the names of all metrics that any model has, those with a label first."""
    known = list(METRICS)
    names = {name: None for model in models for name in metrics_of(model)}

    def place(name: str) -> int:
        kind = name.partition("/")[0]
        return known.index(kind) if kind in known else len(known)

    return tuple(sorted(names, key=lambda name: (place(name), name)))


def summarize_metrics(
    info: StudyInfo, summary: StudySummary, retraining: Mapping[str, Any] | None = None
) -> tuple[MetricSummary, ...]:
    """Summarize each metric over the trained models.

    Args:
        info: description of the study.
        summary: numbers of the study.
        retraining: results, as `reports.evidence_data.retraining_results` returns them.
    """
    models, scatter = trained_models(summary), retraining["metric_scatter"] if retraining else {}
    noise = {name: float(between["sd"]) for name, between in scatter.items()}
    return tuple(_metric_summary(name, models, info, summary, noise.get(name)) for name in metric_names(models))


def _metric_summary(
    name: str, models: Sequence[ScoredTrial], info: StudyInfo, summary: StudySummary, noise: float | None
) -> MetricSummary:
    measured, baseline = _measured(name, models), summary.best_baseline
    best, best_model = max(measured, key=lambda pair: pair[0])
    tau, p_value = kendall([(model.score, value) for value, model in measured])
    teachers = {teacher: facts.metrics[name] for teacher, facts in info.teacher_facts.items() if name in facts.metrics}
    strongest = max(teachers, key=lambda teacher: teachers[teacher], default=None)
    return MetricSummary(
        name=name,
        label=metric_label(name),
        models=len(measured),
        tau=tau,
        p_value=p_value,
        on_front=rank_correlation([(model.score, value) for value, model in _measured(name, summary.front)]),
        best=best,
        best_model=best_model.name,
        baseline=None if baseline is None else metrics_of(baseline).get(name),
        teacher=strongest,
        teacher_value=None if strongest is None else teachers[strongest],
        chance=info.chance.get(name, info.chance.get(name.partition("/")[0])),
        seed_noise=noise,
    )


def _measured(name: str, models: Sequence[ScoredTrial]) -> list[tuple[float, ScoredTrial]]:
    """Return the values of a metric with their models, of the models that have it."""
    return [(metrics_of(model)[name], model) for model in models if name in metrics_of(model)]


def summarize_heads(info: StudyInfo, summary: StudySummary) -> tuple[HeadSummary, ...]:
    """Summarize each head of each teacher, in the study's order of teachers."""
    reached: dict[tuple[str, str], list[tuple[float, str]]] = {
        (teacher, head): [] for teacher, facts in info.teacher_facts.items() for head in facts.heads
    }
    for model in trained_models(summary):
        for teacher, heads in model.trial.rungs[-1].teachers.items():
            for head, value in heads.items():
                reached.setdefault((teacher, head), []).append((value, model.name))
    rows = []
    for (teacher, head), values in reached.items():
        facts = info.teacher_facts[teacher].heads.get(head) if teacher in info.teacher_facts else None
        best, best_model = max(values, default=(None, ""))
        rows.append(HeadSummary(teacher, head, facts, best, best_model))
    return tuple(rows)


def near_chance(value: float | None, chance: float | None) -> bool:
    """Tell whether a metric's value hardly differs from that of a constant guess."""
    if value is None or chance is None:
        return False
    return value - chance < NEAR_CHANCE_SHARE * (1 - chance) and value < NEAR_CHANCE_TIMES * chance
