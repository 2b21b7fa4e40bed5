"""The numbers of a comparison of studies; nothing here draws or formats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from nas.analysis.agreement import kendall
from nas.study.objectives import on_plane
from nas.study.public_info import public_info
from nas.study.records import Objective, StudyRecord, TrialRecord
from reports.compare import LETTERS
from reports.compare.comparability import Comparability, comparability
from reports.scored_trials import ScoredTrial
from reports.summary import CurvePoint, StudySummary, summarize

MIN_RANKED = 10  # shared architectures whose ranks say something


@dataclass(frozen=True)
class ComparedStudy:
    """One study; where studies compare, its summary uses their common reference point."""

    letter: str
    study: StudyRecord
    summary: StudySummary

    @property
    def name(self) -> str:
        """Return the letter and the name."""
        return f"{self.letter}: {self.study.info.name}"


@dataclass(frozen=True)
class SharedArchitecture:
    """An architecture that two studies measured; None where one of them has no number."""

    arch_id: str
    names: tuple[str, str]
    ratios: tuple[float | None, float | None]  # relative throughputs
    scores: tuple[float | None, float | None]


@dataclass(frozen=True)
class StudyPair:
    """A study against the first one."""

    first: ComparedStudy
    other: ComparedStudy
    shared: tuple[SharedArchitecture, ...]  # by throughput in the first study, fastest first
    measured: int  # shared architectures with a throughput in both
    throughput_tau: float | None  # Kendall's tau-b of MIN_RANKED architectures or more, unless all values are equal
    throughput_p: float | None
    trained: int  # shared architectures with a score in both
    score_tau: float | None
    score_p: float | None
    trainings: int  # of the shorter search
    volumes: tuple[float, float]  # hypervolumes after as many trainings
    reached: tuple[int | None, int | None]  # trainings until each had the other's final hypervolume


@dataclass(frozen=True)
class StudyComparison:
    """All numbers of a comparison."""

    studies: tuple[ComparedStudy, ...]
    comparability: Comparability
    reference: tuple[float, float] | None  # common reference point (score, throughput); None without common axes
    coverage: dict[tuple[str, str], float | None]  # (A, B): share of B's front that A's front covers
    pairs: tuple[StudyPair, ...]


def compare_studies(studies: Sequence[StudyRecord]) -> StudyComparison:
    """Compare two to six studies.

    Raises:
        ValueError: a study has objectives other than score and throughput.
    """
    _check_objectives(studies)
    studies = [_score_first(replace(study, info=public_info(study.info))) for study in studies]
    comparable = comparability(studies)
    lowest = [min(s.info.objectives[axis].reference for s in studies) for axis in (0, 1)]
    common = comparable.same_axes
    summaries = [summarize(_with_references(study, lowest) if common else study) for study in studies]
    compared = tuple(ComparedStudy(*each) for each in zip(LETTERS, studies, summaries, strict=False))
    pairs = permutations(compared, 2) if comparable.dominance else ()
    return StudyComparison(
        studies=compared,
        comparability=comparable,
        reference=(lowest[0], lowest[1]) if common else None,
        coverage={(a.letter, b.letter): coverage(a.summary.front, b.summary.front) for a, b in pairs},
        pairs=tuple(_pair(compared[0], other) for other in compared[1:]),
    )


def _check_objectives(studies: Sequence[StudyRecord]) -> None:
    for info in (study.info for study in studies):
        if not on_plane(info.objectives):
            names = ", ".join(o.name for o in info.objectives) or "none"
            raise ValueError(f"{info.name}: its objectives are {names}: a comparison needs score and throughput")


def _score_first(study: StudyRecord) -> StudyRecord:
    """Return a study whose objectives are in the order score, throughput: a search takes them in any."""
    objectives = tuple(sorted(study.info.objectives, key=lambda objective: objective.name != "score"))
    return replace(study, info=replace(study.info, objectives=objectives))


def _with_references(study: StudyRecord, references: Sequence[float]) -> StudyRecord:
    objectives: tuple[Objective, ...] = tuple(
        replace(o, reference=r) for o, r in zip(study.info.objectives, references, strict=True)
    )
    return replace(study, info=replace(study.info, objectives=objectives))


def coverage(covering: Sequence[ScoredTrial], covered: Sequence[ScoredTrial]) -> float | None:
    """Return the share of `covered` that some trial of `covering` equals or exceeds in both objectives.

    Source: the C metric of Zitzler and Thiele (1998).

    Returns:
        None if one of them is empty.
    """
    if not covered or not covering:
        return None
    count = sum(any(a.score >= b.score and a.ratio >= b.ratio for a in covering) for b in covered)
    return count / len(covered)


def _pair(first: ComparedStudy, other: ComparedStudy) -> StudyPair:
    shared = _shared_architectures(first, other)
    ratios = [(a, b) for s in shared for a, b in (s.ratios,) if a is not None and b is not None]
    scores = [(a, b) for s in shared for a, b in (s.scores,) if a is not None and b is not None]
    (throughput_tau, throughput_p), (score_tau, score_p) = (
        kendall(values) if len(values) >= MIN_RANKED else (None, None) for values in (ratios, scores)
    )
    curves = first.summary.curve, other.summary.curve
    trainings = min(len(curve) for curve in curves)
    return StudyPair(
        first=first,
        other=other,
        shared=shared,
        measured=len(ratios),
        throughput_tau=throughput_tau,
        throughput_p=throughput_p,
        trained=len(scores),
        score_tau=score_tau,
        score_p=score_p,
        trainings=trainings,
        volumes=(_volume_after(curves[0], trainings), _volume_after(curves[1], trainings)),
        reached=(
            _trainings_to(curves[0], other.summary.hypervolume),
            _trainings_to(curves[1], first.summary.hypervolume),
        ),
    )


def _volume_after(curve: Sequence[CurvePoint], trainings: int) -> float:
    return curve[trainings - 1].hypervolume if trainings else 0.0


def _trainings_to(curve: Sequence[CurvePoint], volume: float) -> int | None:
    return next((c.evaluations for c in curve if c.hypervolume >= volume > 0), None)


def _shared_architectures(first: ComparedStudy, other: ComparedStudy) -> tuple[SharedArchitecture, ...]:
    ours, theirs = _measured_trials(first.study), _measured_trials(other.study)
    our_scores, their_scores = _scores(first.summary), _scores(other.summary)
    shared = [
        SharedArchitecture(
            arch_id=arch_id,
            names=(trial.name, theirs[arch_id].name),
            ratios=(_ratio(trial), _ratio(theirs[arch_id])),
            scores=(our_scores.get(arch_id), their_scores.get(arch_id)),
        )
        for arch_id, trial in ours.items()
        if arch_id in theirs
    ]
    return tuple(sorted(shared, key=lambda s: (-(s.ratios[0] or 0), s.arch_id)))


def _measured_trials(study: StudyRecord) -> dict[str, TrialRecord]:
    """Return the first measured trial of each architecture."""
    trials: dict[str, TrialRecord] = {}
    for trial in study.trials:
        if _ratio(trial) is not None:
            trials.setdefault(trial.arch_id, trial)
    return trials


def _ratio(trial: TrialRecord) -> float | None:
    m = trial.measurement
    return m.ratio if m is not None and m.ratio > 0 and math.isfinite(m.ratio) else None


def _scores(summary: StudySummary) -> dict[str, float]:
    models = (*summary.complete, *(b.scored for b in summary.baselines))
    return {model.trial.arch_id: model.score for model in reversed(models)}
