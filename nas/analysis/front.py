"""Nets in the plane of quality and speed under one set of measurements, and how each stands there. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from nas import pareto
from nas.objectives import GOALS
from nas.records import Measurement, Objective, TrialRecord
from nas.reranking.selection import is_baseline, quality


class Standing(StrEnum):
    """How a net stands among the found ones, under one measurement."""

    FRONT = "front"  # none is at least as good in both and better in one
    TIED = "tied"  # some are, but within the intervals of the speed
    BEHIND = "behind"  # some are, beyond them
    OPEN = "open"  # none of those measured again is; those that were before were not measured again


@dataclass(frozen=True)
class Place:
    """A net's standing, and the number of the fastest trial that it is tied with or behind."""

    standing: Standing
    by: int | None = None


@dataclass(frozen=True)
class Spot:
    """One net under one measurement: quality, and the ratio to the reference with its interval."""

    number: int
    quality: float
    ratio: float
    low: float
    high: float

    def dominates(self, other: Spot) -> bool:
        """At least as good in both, better in one."""
        better = self.quality > other.quality or self.ratio > other.ratio
        return better and self.quality >= other.quality and self.ratio >= other.ratio

    def surely_dominates(self, other: Spot) -> bool:
        """Even with its own speed at the low end of the interval and the other's at the high end."""
        if self.quality > other.quality:
            return self.low >= other.high
        return self.quality == other.quality and self.low > other.high


class Plane:
    """The nets of `trials` that have a measurement in `measurements` (by trial number)."""

    def __init__(self, trials: Sequence[TrialRecord], measurements: Mapping[int, Measurement]) -> None:
        here = [t for t in trials if t.number in measurements]
        self.spots = {t.number: _spot(t, measurements[t.number]) for t in here}
        self._found = [self.spots[t.number] for t in here if not is_baseline(t)]

    def place(self, number: int) -> Place:
        """Where a net, found or baseline, stands among the found ones."""
        spot = self.spots[number]
        over = [other for other in self._found if other.dominates(spot)]
        if not over:
            return Place(Standing.FRONT)
        surely = [other for other in over if other.surely_dominates(spot)]
        fastest = max(surely or over, key=lambda other: other.ratio)
        return Place(Standing.BEHIND if surely else Standing.TIED, fastest.number)

    def ranks(self, numbers: Collection[int]) -> dict[int, int]:
        """Ranks by ratio of these nets among themselves; the fastest is 1, equals share the better rank."""
        ratios = {n: self.spots[n].ratio for n in numbers}
        return {n: 1 + sum(other > own for other in ratios.values()) for n, own in ratios.items()}

    def volume(self, numbers: Collection[int], objectives: Sequence[Objective]) -> float:
        """Hypervolume of the found nets among these in quality and speed, over the study's reference point."""
        named = {objective.name: objective for objective in objectives}
        plane = good, speed = [named.get(name, GOALS[name].objective) for name in ("quality", "throughput")]
        spots = [s for s in self._found if s.number in numbers]
        points = [(pareto.coordinate(good, s.quality), pareto.coordinate(speed, s.ratio)) for s in spots]
        return pareto.hypervolume(points, pareto.reference_point(plane))


def _spot(trial: TrialRecord, m: Measurement) -> Spot:
    return Spot(trial.number, quality(trial), m.ratio, m.ratio_low, m.ratio_high)
