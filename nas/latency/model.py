"""Costs and corrections together: the mean and the model's own doubt of a net's time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nas.latency.corrections import Corrections
from nas.latency.costs import Array, Costs, fit_costs, work_of
from nas.latency.network import Part, parts
from nas.latency.observation import Observation
from search_space import ArchSpec

FLOOR = 0.04  # of a net's time: what is shorter weighs no more for being short
WHOLE_NOISE = 0.03  # of a net's time
PART_NOISE = 0.1, 0.005  # of a part's time, and of its net's on top: parts are timed in a run of their own, less well
AT_ONCE = 256  # bounds the memory that a long list of candidates takes


@dataclass(frozen=True)
class Row:
    """Parts that were timed together; `net_s` is the time of the net that they belong to."""

    parts: tuple[Part, ...]
    seconds: float
    net_s: float
    whole: bool

    @property
    def deviation_s(self) -> float:
        """How well the time is known."""
        if self.whole:
            return WHOLE_NOISE * self.seconds
        return float(np.hypot(PART_NOISE[0] * self.seconds, PART_NOISE[1] * self.net_s))


@dataclass(frozen=True, eq=False)
class Model:
    """Fitted; for images of one batch and resolution."""

    batch: int
    resolution: int
    costs: Costs
    corrections: Corrections

    @classmethod
    def fit(cls, observations: Sequence[Observation], batch: int, resolution: int) -> Model:
        """Raises ValueError for stages that a spec doesn't have."""
        rows = [row for o in observations for row in _rows(o, batch, resolution)]
        seconds = np.array([row.seconds for row in rows])
        weights = np.array([1 / (row.seconds + FLOOR * row.net_s) for row in rows])
        costs = fit_costs([(work_of(row.parts), row.whole) for row in rows], seconds, weights)
        left = seconds - np.array([costs.beside_s * row.whole for row in rows])
        deviations = np.array([row.deviation_s for row in rows])
        return cls(batch, resolution, costs, Corrections(costs, [row.parts for row in rows], left, deviations))

    def seconds(self, specs: Sequence[ArchSpec]) -> Array:
        """Seconds of each, (n,); without the doubt, which takes most of the time."""
        found = [self._whole(self.corrections.seconds(rows)) for rows in self._chunks(specs)]
        return np.concatenate([np.empty(0), *found])

    def predict(self, specs: Sequence[ArchSpec]) -> tuple[Array, Array]:
        """Seconds of each, and the relative standard deviation of what the model doesn't know of it."""
        found = [self.corrections.predict(rows) for rows in self._chunks(specs)] or [(np.empty(0), np.empty(0))]
        mean, deviation = (np.concatenate(values) for values in zip(*found, strict=True))
        seconds = self._whole(mean)
        return seconds, deviation / seconds

    def _chunks(self, specs: Sequence[ArchSpec]) -> Iterator[list[list[Part]]]:
        for i in range(0, len(specs), AT_ONCE):
            yield [parts(spec, self.batch, self.resolution) for spec in specs[i : i + AT_ONCE]]

    def _whole(self, seconds: Array) -> Array:
        """Of nets from their parts'; far outside of what was seen, corrections could take more than there is."""
        return np.maximum(seconds + self.costs.beside_s, np.finfo(float).tiny)


def _rows(observation: Observation, batch: int, resolution: int) -> Iterator[Row]:
    """The whole net, then each of its parts that was timed."""
    found = {part.name: part for part in parts(observation.spec, batch, resolution)}
    yield Row(tuple(found.values()), observation.seconds, observation.seconds, True)
    for name, seconds in (observation.stages_s or {}).items():
        if name not in found:
            arch_id, names = observation.spec.arch_id, ", ".join(found)
            raise ValueError(f"observations: {arch_id} has no stage {name!r}; it has {names}")
        yield Row((found[name],), seconds, observation.seconds, False)
