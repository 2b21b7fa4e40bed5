"""The numbers of a report, computed once from a study's records; nothing here draws or formats.

Quality is the quality at the last rung, speed is `Measurement.ratio` (times the reference backbone, paired). Only
trials that are COMPLETE have both; a trial stopped at a lower rung is never compared with them. Searches have the
objectives quality and throughput; a study may declare one of them alone, or further ones: metrics of the last rung.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nas import pareto
from nas.records import Study, StudyInfo, TrialRecord, TrialState
from reports.chance import ChanceStart, chance_start
from reports.objectives import coordinates_of
from reports.tallies import (
    Correlation,
    LedgerRow,
    ReasonRow,
    budget_ledger,
    reasons,
    rung_correlations,
    timing_half_width,
)
from reports.ties import floor_of, near_front, tied_neighbours


@dataclass(frozen=True)
class Scored:
    """A trial with both objectives: what fronts and comparisons are made of."""

    trial: TrialRecord
    quality: float
    ratio: float
    ratio_low: float
    ratio_high: float
    values: tuple[float, ...] = ()  # of the study's objectives, on the axes of `pareto.coordinate`: more is better

    @property
    def name(self) -> str:
        """The baseline's arch name, or `trial N`."""
        return self.trial.name


@dataclass(frozen=True)
class BaselineRow:
    """A reference backbone trained and measured in the same study, against the front."""

    name: str
    scored: Scored
    dominated_by: tuple[int, ...]  # numbers of front trials at least as good in both, better in one


@dataclass(frozen=True)
class Comparison:
    """A found net beside the best baseline. `speedup` is their ratio of ratios; its bounds pair opposite bounds."""

    found: Scored
    baseline: Scored
    speedup: float
    speedup_low: float
    speedup_high: float
    quality_gain: float


@dataclass(frozen=True)
class CurvePoint:
    """Hypervolume after `evaluations` trainings of `steps` in all, finished at `seconds` since the study's start."""

    evaluations: int
    seconds: float | None
    hypervolume: float
    steps: int


@dataclass(frozen=True)
class StudySummary:
    """All a report says in numbers."""

    counts: dict[TrialState, int]  # the sampler's trials; baselines are counted in `baselines`
    evaluated: int  # trials that count against the budget
    complete: tuple[Scored, ...]
    front: tuple[Scored, ...]  # fastest first; equal points are all there
    near: tuple[Scored, ...]  # dominated, but not beyond the intervals of the throughput or the A/A pair
    tied_neighbours: int  # neighbours on the front whose throughputs differ by no more than intervals or the A/A pair
    itself: Scored | None  # the reference measured against itself (A/A): what two equal nets differ by here
    baselines: tuple[BaselineRow, ...]
    best_baseline: Scored | None  # highest quality
    fastest_as_good: Comparison | None  # fastest net at least as good as the best baseline
    best_as_fast: Comparison | None  # best net at least as fast as the best baseline
    hypervolume: float
    baseline_hypervolume: float
    curve: tuple[CurvePoint, ...]
    ledger: tuple[LedgerRow, ...]
    correlations: tuple[Correlation, ...]
    reasons: tuple[ReasonRow, ...]
    verdicts: dict[str, int]  # measurements per verdict
    half_width: float | None  # median, relative, of the throughput ratio's intervals; None where nothing was timed
    chance_start: ChanceStart | None = None  # the trials that were drawn at random, before the sampler learnt


def summarize(study: Study) -> StudySummary:
    """Compute the numbers of a study's report. Works for any study, also an empty or unfinished one."""
    sampled = [t for t in study.trials if not t.baseline]
    complete = _scored((t for t in sampled if t.counts), study.info)
    baselines = _scored((t for t in study.trials if t.baseline), study.info)
    front = _front(complete)
    best = max(baselines, key=lambda b: b.quality, default=None)
    measured = [t.measurement for t in study.trials if t.measurement is not None]
    itself = next((b for b in baselines if b.name == study.info.reference), None)
    floor = floor_of(itself)
    return StudySummary(
        counts=dict(Counter(t.state for t in sampled)),
        evaluated=sum(t.counts for t in sampled),
        complete=complete,
        front=front,
        near=near_front(complete, front, study.info, floor),
        tied_neighbours=tied_neighbours(front, floor),
        itself=itself,
        baselines=tuple(BaselineRow(b.name, b, _dominators(b, front)) for b in baselines),
        best_baseline=best,
        fastest_as_good=_fastest_as_good(complete, best),
        best_as_fast=_best_as_fast(complete, best),
        hypervolume=hypervolume(front, study.info),
        baseline_hypervolume=hypervolume(baselines, study.info),
        curve=_curve(sampled, complete, study.info),
        ledger=budget_ledger(study.info, study.trials),
        correlations=rung_correlations(sampled, len(study.info.rung_steps)),
        reasons=reasons(study.trials),
        verdicts=dict(Counter(m.verdict for m in measured)),
        half_width=timing_half_width(measured),
        chance_start=chance_start(sampled, scored_points(complete, study.info), study.info),
    )


def hypervolume(scored: Iterable[Scored], info: StudyInfo) -> float:
    """Area between the points and the study's declared reference point; log axes are counted in doublings (log2)."""
    points = list(scored_points(scored, info).values())
    return pareto.hypervolume(points, pareto.reference_point(info.objectives))


def scored_points(scored: Iterable[Scored], info: StudyInfo) -> dict[int, tuple[float, ...]]:
    """By trial number, on the axes in which hypervolume is computed."""
    return {s.trial.number: s.values for s in scored}


def _scored(trials: Iterable[TrialRecord], info: StudyInfo) -> tuple[Scored, ...]:
    """Those trials that reached the last rung with finite numbers on both axes."""
    found = []
    for trial in trials:
        m, score = trial.measurement, trial.final_score
        if m is None or not math.isfinite(score) or len(trial.rungs) < len(info.rung_steps):
            continue
        values = coordinates_of(trial, info)
        if math.isfinite(m.ratio) and m.ratio > 0 and values is not None:
            found.append(Scored(trial, score, m.ratio, m.ratio_low, m.ratio_high, values))
    return tuple(found)


def _front(scored: Sequence[Scored]) -> tuple[Scored, ...]:
    """Non-dominated in all objectives; with one objective its best, equals included."""
    on_front = [scored[i] for i in pareto.front([s.values for s in scored])]
    return tuple(sorted(on_front, key=lambda s: (-s.ratio, -s.quality, s.trial.number)))


def _dominators(point: Scored, front: Sequence[Scored]) -> tuple[int, ...]:
    return tuple(
        s.trial.number
        for s in front
        if s.values != point.values and all(a >= b for a, b in zip(s.values, point.values, strict=True))
    )


def _compare(found: Scored, baseline: Scored) -> Comparison:
    return Comparison(
        found=found,
        baseline=baseline,
        speedup=found.ratio / baseline.ratio,
        speedup_low=found.ratio_low / baseline.ratio_high if baseline.ratio_high > 0 else math.nan,
        speedup_high=found.ratio_high / baseline.ratio_low if baseline.ratio_low > 0 else math.nan,
        quality_gain=found.quality - baseline.quality,
    )


def _fastest_as_good(complete: Sequence[Scored], baseline: Scored | None) -> Comparison | None:
    if baseline is None:
        return None
    as_good = [s for s in complete if s.quality >= baseline.quality]
    found = max(as_good, key=lambda s: (s.ratio, s.quality), default=None)
    return None if found is None else _compare(found, baseline)


def _best_as_fast(complete: Sequence[Scored], baseline: Scored | None) -> Comparison | None:
    if baseline is None:
        return None
    as_fast = [s for s in complete if s.ratio >= baseline.ratio]
    found = max(as_fast, key=lambda s: (s.quality, s.ratio), default=None)
    return None if found is None else _compare(found, baseline)


def _curve(sampled: Sequence[TrialRecord], complete: Sequence[Scored], info: StudyInfo) -> tuple[CurvePoint, ...]:
    """Hypervolume in the order in which evaluations finished; stopped trials cost an evaluation and add nothing."""
    scored = {s.trial.number: s for s in complete}
    finished = sorted((t for t in sampled if t.counts), key=lambda t: (_seconds(t), t.number))
    front: tuple[Scored, ...] = ()
    curve, volume, steps = [], 0.0, 0
    for evaluations, trial in enumerate(finished, start=1):
        if trial.number in scored:
            front = _front([*front, scored[trial.number]])
            volume = hypervolume(front, info)
        steps += trial.rungs[-1].steps if trial.rungs else 0
        curve.append(CurvePoint(evaluations, trial.finished_s, volume, steps))
    return tuple(curve)


def _seconds(trial: TrialRecord) -> float:
    return math.inf if trial.finished_s is None else trial.finished_s
