"""Place candidates on the plane of score and speed under one set of measurements. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from nas.study import pareto
from nas.study.objectives import OBJECTIVES
from nas.study.records import Measurement, Objective, TrialRecord
from nas.study.timing_doubts import repeated_interval


class FrontStatus(StrEnum):
    """Position of a candidate relative to the front of the searched candidates, under one set of measurements."""

    FRONT = "front"  # no other candidate is at least as good in both and better in one
    TIED = "tied"  # another dominates it, but within the intervals of the speed
    BEHIND = "behind"  # another dominates it beyond the intervals
    OPEN = "open"  # the candidates that dominated it before were not measured again


@dataclass(frozen=True)
class FrontPosition:
    """A candidate's status, and the number of the fastest trial that it is tied with or behind."""

    status: FrontStatus
    by: int | None = None


@dataclass(frozen=True)
class FrontPoint:
    """A candidate under one measurement: score, ratio to the reference, and the 95 % interval over processes."""

    number: int
    score: float
    ratio: float
    low: float
    high: float

    def dominates(self, other: FrontPoint) -> bool:
        """Return whether it is at least as good in both and better in one."""
        better = self.score > other.score or self.ratio > other.ratio
        return better and self.score >= other.score and self.ratio >= other.ratio

    def clearly_dominates(self, other: FrontPoint) -> bool:
        """Return whether it dominates with its own speed at the interval's low end and the other's at the high end."""
        if self.score > other.score:
            return self.low >= other.high
        return self.score == other.score and self.low > other.high


class ScoreSpeedPlane:
    """Points of those `trials` that have a measurement in `measurements` (by trial number)."""

    def __init__(self, trials: Sequence[TrialRecord], measurements: Mapping[int, Measurement]) -> None:
        measured = [t for t in trials if t.number in measurements]
        self.points = {t.number: _point(t, measurements[t.number]) for t in measured}
        self._searched = [self.points[t.number] for t in measured if not t.baseline]

    def position(self, number: int) -> FrontPosition:
        """Return where a candidate or baseline lies relative to the front of the searched candidates."""
        point = self.points[number]
        dominating = [other for other in self._searched if other.dominates(point)]
        if not dominating:
            return FrontPosition(FrontStatus.FRONT)
        clearly = [other for other in dominating if other.clearly_dominates(point)]
        fastest = max(clearly or dominating, key=lambda other: other.ratio)
        return FrontPosition(FrontStatus.BEHIND if clearly else FrontStatus.TIED, fastest.number)

    def speed_ranks(self, numbers: Collection[int]) -> dict[int, int]:
        """Return the ranks of these trials by ratio; the fastest is 1, equals share the better rank."""
        ratios = {n: self.points[n].ratio for n in numbers}
        return {n: 1 + sum(other > ratio for other in ratios.values()) for n, ratio in ratios.items()}

    def hypervolume(self, numbers: Collection[int], objectives: Sequence[Objective]) -> float:
        """Return the hypervolume of these trials, baselines left out, over the study's reference point."""
        return plane_hypervolume([(p.score, p.ratio) for p in self._searched if p.number in numbers], objectives)


def plane_hypervolume(points: Iterable[tuple[float, float]], objectives: Sequence[Objective]) -> float:
    """Return the hypervolume of points (score, ratio) over a study's reference point."""
    named = {objective.name: objective for objective in objectives}
    plane = score, speed = [named.get(name, OBJECTIVES[name].objective) for name in ("score", "throughput")]
    coordinates = [(pareto.coordinate(score, q), pareto.coordinate(speed, ratio)) for q, ratio in points]
    return pareto.hypervolume(coordinates, pareto.reference_point(plane))


def _point(trial: TrialRecord, m: Measurement) -> FrontPoint:
    return FrontPoint(trial.number, trial.final_score, m.ratio, *repeated_interval(m))
