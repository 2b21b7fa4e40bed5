"""The numbers of studies side by side; nothing here draws or formats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from nas.analysis.agreement import kendall
from nas.disclosure import disclosed
from nas.records import Objective, Study, TrialRecord
from reports.compare.agreement import LETTERS, Agreement, agreement
from reports.summary import CurvePoint, Scored, StudySummary, net_name, summarize

MOST_STUDIES = len(LETTERS)


@dataclass(frozen=True)
class Side:
    """One study. Where studies compare, its summary is over the common reference point, not over its own."""

    letter: str
    study: Study
    summary: StudySummary

    @property
    def name(self) -> str:
        """Letter and name."""
        return f"{self.letter}: {self.study.info.name}"


@dataclass(frozen=True)
class Shared:
    """A net that two studies have; None where one of them has no number."""

    arch_id: str
    names: tuple[str, str]
    speeds: tuple[float | None, float | None]
    qualities: tuple[float | None, float | None]


@dataclass(frozen=True)
class Pair:
    """A study beside the first one."""

    first: Side
    other: Side
    shared: tuple[Shared, ...]  # fastest of the first's first
    measured: int  # of the shared
    speed_tau: float | None  # Kendall's tau-b
    speed_p: float | None
    trained: int
    quality_tau: float | None
    quality_p: float | None
    trainings: int  # of the shorter search
    volumes: tuple[float, float]  # then
    reached: tuple[int | None, int | None]  # trainings until each had the other's final hypervolume


@dataclass(frozen=True)
class SideBySide:
    """All that the page says."""

    sides: tuple[Side, ...]
    agreement: Agreement
    reference: tuple[float, float] | None  # (quality, speed) below which nothing counts; None where nothing compares
    coverage: dict[tuple[str, str], float | None]  # (A, B): share of B's front that A's is at least as good as
    pairs: tuple[Pair, ...]


def side_by_side(studies: Sequence[Study]) -> SideBySide:
    """Compare two to six studies. Raises ValueError where one has other objectives than two."""
    _check_objectives(studies)
    studies = [replace(study, info=disclosed(study.info)) for study in studies]
    own = [summarize(study) for study in studies]
    agreed = agreement(studies)
    lowest = [min(s.info.objectives[axis].reference for s in studies) for axis in (0, 1)]
    told = [summarize(_over(study, lowest)) for study in studies] if agreed.one_plane else own
    sides = tuple(Side(*side) for side in zip(LETTERS, studies, told, strict=False))
    pairs = permutations(sides, 2) if agreed.dominance else ()
    return SideBySide(
        sides=sides,
        agreement=agreed,
        reference=(lowest[0], lowest[1]) if agreed.one_plane else None,
        coverage={(a.letter, b.letter): coverage(a.summary.front, b.summary.front) for a, b in pairs},
        pairs=tuple(_pair(sides[0], other) for other in sides[1:]),
    )


def _check_objectives(studies: Sequence[Study]) -> None:
    for info in (study.info for study in studies):
        if [objective.name for objective in info.objectives] != ["quality", "throughput"]:
            names = ", ".join(o.name for o in info.objectives) or "none"
            raise ValueError(f"{info.name}: its objectives are {names}: a comparison knows quality and throughput")


def _over(study: Study, references: Sequence[float]) -> Study:
    objectives: tuple[Objective, ...] = tuple(
        replace(o, reference=r) for o, r in zip(study.info.objectives, references, strict=True)
    )
    return replace(study, info=replace(study.info, objectives=objectives))


def coverage(covering: Sequence[Scored], covered: Sequence[Scored]) -> float | None:
    """Share of `covered` to which some net of `covering` is at least equal in both objectives; None without a front.

    Source: the C metric of Zitzler and Thiele (1998).
    """
    if not covered or not covering:
        return None
    beaten = sum(any(a.quality >= b.quality and a.ratio >= b.ratio for a in covering) for b in covered)
    return beaten / len(covered)


def _pair(first: Side, other: Side) -> Pair:
    shared = _shared(first, other)
    speeds = [(a, b) for s in shared for a, b in (s.speeds,) if a is not None and b is not None]
    qualities = [(a, b) for s in shared for a, b in (s.qualities,) if a is not None and b is not None]
    (speed_tau, speed_p), (quality_tau, quality_p) = kendall(speeds), kendall(qualities)
    curves = first.summary.curve, other.summary.curve
    trainings = min(len(curve) for curve in curves)
    return Pair(
        first=first,
        other=other,
        shared=shared,
        measured=len(speeds),
        speed_tau=speed_tau,
        speed_p=speed_p,
        trained=len(qualities),
        quality_tau=quality_tau,
        quality_p=quality_p,
        trainings=trainings,
        volumes=(_after(curves[0], trainings), _after(curves[1], trainings)),
        reached=(
            _reaching(curves[0], other.summary.hypervolume),
            _reaching(curves[1], first.summary.hypervolume),
        ),
    )


def _after(curve: Sequence[CurvePoint], trainings: int) -> float:
    return curve[trainings - 1].hypervolume if trainings else 0.0


def _reaching(curve: Sequence[CurvePoint], volume: float) -> int | None:
    return next((c.evaluations for c in curve if c.hypervolume >= volume > 0), None)


def _shared(first: Side, other: Side) -> tuple[Shared, ...]:
    ours, theirs = _measured(first.study), _measured(other.study)
    qualities = _qualities(first.summary), _qualities(other.summary)
    found = [
        Shared(
            arch_id=arch_id,
            names=(net_name(trial), net_name(theirs[arch_id])),
            speeds=(_speed(trial), _speed(theirs[arch_id])),
            qualities=(qualities[0].get(arch_id), qualities[1].get(arch_id)),
        )
        for arch_id, trial in ours.items()
        if arch_id in theirs
    ]
    return tuple(sorted(found, key=lambda s: (-(s.speeds[0] or 0), s.arch_id)))


def _measured(study: Study) -> dict[str, TrialRecord]:
    """The first trial of each architecture that was measured."""
    found: dict[str, TrialRecord] = {}
    for trial in study.trials:
        if _speed(trial) is not None:
            found.setdefault(trial.arch_id, trial)
    return found


def _speed(trial: TrialRecord) -> float | None:
    m = trial.measurement
    return m.ratio if m is not None and m.ratio > 0 and math.isfinite(m.ratio) else None


def _qualities(summary: StudySummary) -> dict[str, float]:
    nets = (*summary.complete, *(b.scored for b in summary.baselines))
    return {net.trial.arch_id: net.quality for net in reversed(nets)}
