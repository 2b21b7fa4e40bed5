"""The numbers of a report, computed once from a study's records; nothing here draws or formats.

Only complete trials have a distillation score of the last rung and a relative throughput. An early-stopped trial is
never compared with them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from nas.analysis.evidence import StudyEvidence, gather_evidence
from nas.analysis.recommendation import BaselineComparison, Recommendation, recommend
from nas.study.records import StudyInfo, StudyRecord, TrialRecord, TrialState
from nas.study.timing_doubts import noise_floor, timing_doubt
from reports.scored_trials import ScoredTrial, dominators, hypervolume, pareto_front, score_trials
from reports.search_course import (
    FailureReason,
    RungCorrelation,
    TimeSpent,
    failure_reasons,
    rung_correlations,
    time_spent,
    timing_half_width,
)
from reports.timing_noise import count_ties, near_front


@dataclass(frozen=True)
class BaselineResult:
    """A known backbone, trained and measured in the same study, against the front."""

    name: str
    scored: ScoredTrial
    dominated_by: tuple[int, ...]  # numbers of trials on the front and of other baselines


@dataclass(frozen=True)
class CurvePoint:
    """Hypervolume after `evaluations` trainings with `steps` in total, `seconds` after the study began."""

    evaluations: int
    seconds: float | None
    hypervolume: float
    steps: int


@dataclass(frozen=True)
class StudySummary:
    """All numbers of a report."""

    counts: dict[TrialState, int]  # of the sampler's trials; baselines are in `baselines`
    evaluated: int  # trials that count against the budget
    complete: tuple[ScoredTrial, ...]
    front: tuple[ScoredTrial, ...]  # fastest first; equal trials are all on it
    near: tuple[ScoredTrial, ...]  # dominated, but within the noise of the throughput
    tied_neighbors: int  # neighbors on the front whose throughputs differ by no more than the noise
    self_comparison: ScoredTrial | None  # the reference measured against itself (A/A)
    baselines: tuple[BaselineResult, ...]
    best_baseline: ScoredTrial | None  # highest score in the search
    recommendation: Recommendation | None  # None before a candidate is complete
    hypervolume: float
    baseline_hypervolume: float
    curve: tuple[CurvePoint, ...]
    time_spent: tuple[TimeSpent, ...]
    correlations: tuple[RungCorrelation, ...]
    reasons: tuple[FailureReason, ...]
    verdicts: dict[str, int]  # measurements by verdict
    doubtful: int  # measurements whose timing cannot be trusted
    half_width: float | None  # median, relative, of the throughput intervals; None where nothing was timed
    scale: int  # comparison networks that were measured
    lost_baselines: int = 0  # baselines that failed or could not be measured as the others
    remeasured: int = 0  # candidates and baselines whose timing is that of a remeasurement
    doubts: dict[str, int] = field(default_factory=dict)  # measurements by the reason why they cannot be trusted

    @property
    def comparisons(self) -> tuple[BaselineComparison | None, BaselineComparison | None]:
        """Return the comparisons of the best baseline with the fastest as good, and with the best as fast."""
        found = self.recommendation
        return (None, None) if found is None else (found.fastest_as_good, found.best_as_fast)


def summarize(study: StudyRecord, evidence: StudyEvidence | None = None) -> StudySummary:
    """Compute the numbers of a study's report; the study may be empty or unfinished.

    Args:
        study: Its records, with the timings that the report shows.
        evidence: That `study` is of; None: what the search alone knows.
    """
    evidence = evidence or gather_evidence(study)
    sampled = [t for t in study.trials if not t.baseline]
    complete = score_trials((t for t in sampled if t.counts), study.info)
    baselines = score_trials((t for t in study.trials if t.baseline), study.info)
    front = pareto_front(complete)
    best = max(baselines, key=lambda b: b.score, default=None)
    measured = [t.measurement for t in study.trials if t.measurement is not None]
    self_comparison = _self_comparison(study, baselines)
    floor = noise_floor(self_comparison.trial.measurement if self_comparison else None)
    return StudySummary(
        counts=dict(Counter(t.state for t in sampled)),
        evaluated=sum(t.counts for t in sampled),
        complete=complete,
        front=front,
        near=near_front(complete, front, study.info, floor),
        tied_neighbors=count_ties(front, floor),
        self_comparison=self_comparison,
        baselines=tuple(BaselineResult(b.name, b, dominators(b, (*front, *baselines))) for b in baselines),
        best_baseline=best,
        recommendation=recommend(evidence),
        hypervolume=hypervolume(front, study.info),
        baseline_hypervolume=hypervolume(baselines, study.info),
        curve=_curve(sampled, complete, study.info),
        time_spent=time_spent(study.info, (*evidence.record.trials, *evidence.record.scale)),
        correlations=rung_correlations(sampled, len(study.info.rung_steps)),
        reasons=failure_reasons(study.trials),
        verdicts=dict(Counter(m.verdict for m in measured)),
        doubtful=sum(timing_doubt(m) is not None for m in measured),
        doubts=dict(Counter(doubt for m in measured if (doubt := timing_doubt(m)))),
        half_width=timing_half_width(measured),
        scale=sum(t.measurement is not None for t in study.scale),
        lost_baselines=sum(
            t.baseline is not None and t.state in (TrialState.FAILED, TrialState.INFEASIBLE) for t in study.trials
        ),
        remeasured=sum(t.number in evidence.remeasured for t in study.trials),
    )


def _self_comparison(study: StudyRecord, baselines: Sequence[ScoredTrial]) -> ScoredTrial | None:
    """Return the reference measured against itself: a baseline, or a comparison network and then without a score."""
    reference = study.info.reference
    comparison_networks = (
        ScoredTrial(t, math.nan, t.measurement.ratio, t.measurement.ratio_low, t.measurement.ratio_high)
        for t in study.scale
        if t.scale == reference and t.measurement
    )
    return next((b for b in baselines if b.name == reference), None) or next(comparison_networks, None)


def _curve(sampled: Sequence[TrialRecord], complete: Sequence[ScoredTrial], info: StudyInfo) -> tuple[CurvePoint, ...]:
    """Return the hypervolume in the order in which evaluations finished.

    An early-stopped trial costs an evaluation and adds nothing.
    """
    scored = {s.trial.number: s for s in complete}
    finished = sorted((t for t in sampled if t.counts), key=lambda t: (_finished_s(t), t.number))
    front: tuple[ScoredTrial, ...] = ()
    curve, volume, steps = [], 0.0, 0
    for evaluations, trial in enumerate(finished, start=1):
        if trial.number in scored:
            front = pareto_front([*front, scored[trial.number]])
            volume = hypervolume(front, info)
        steps += trial.rungs[-1].steps if trial.rungs else 0
        curve.append(CurvePoint(evaluations, trial.finished_s, volume, steps))
    return tuple(curve)


def _finished_s(trial: TrialRecord) -> float:
    return math.inf if trial.finished_s is None else trial.finished_s
