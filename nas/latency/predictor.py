"""How long a net would take, from the nets timed so far: to choose what to time next, never to be shown as a time.

    predictor = LatencyPredictor.fit(observations, batch=16, resolution=64)
    print(predictor.cross_validated())
    worth_timing = predictor.shortlist(candidates, limit_s=0.01)

A net is a sum of parts (stem, stages, ...), a part's time what its operators cost, by kind, times a factor that parts
of its kind share. All observations must be of one device, arm, batch and resolution.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nas.latency.held_out import HeldOut, folds, held_out
from nas.latency.model import Model
from nas.latency.observation import Observation, Prediction, check
from search_space import ArchSpec

MOST = 300  # nets fitted on: time grows with their cube, and the error hardly falls any more
SCATTER_FOLDS = 5
LEAST_SCATTER = 0.005  # no timing repeats itself better
FAIR_CHANCE = 0.1
Observations = Sequence[Observation]


@dataclass(frozen=True, eq=False)
class LatencyPredictor:
    """Made by `fit`. scatter: how far measurements lie from it beyond the model's own doubt, as a deviation of logs."""

    observations: tuple[Observation, ...]
    model: Model
    scatter: float

    @classmethod
    def fit(cls, observations: Observations, *, batch: int, resolution: int) -> LatencyPredictor:
        """From nets that were timed at one batch and resolution, the latest 300. Stages' times make fewer nets do.

        Raises ValueError for fewer than 10 nets, times that aren't positive, or stages that a spec doesn't have.
        """
        latest = observations[-MOST:]
        check(latest, batch, resolution)
        return cls._fit(latest, batch, resolution)

    @classmethod
    def _fit(cls, observations: Observations, batch: int, resolution: int) -> LatencyPredictor:
        model = Model.fit(observations, batch, resolution)
        return cls(tuple(observations), model, _scatter(observations, batch, resolution))

    def predict(self, specs: Sequence[ArchSpec]) -> list[Prediction]:
        """For each spec, in the unit of the observations."""
        seconds, doubts = self.model.predict(specs)
        deviations = np.hypot(doubts, self.scatter)
        return [Prediction(float(s), float(d)) for s, d in zip(seconds, deviations, strict=True)]

    def cross_validated(self, count: int = 10, seed: int = 0) -> HeldOut:
        """Errors on its own observations, in `count` folds, each predicted by what the others alone would fit.

        All times of a net lie in one fold. Takes `count` times as long as `fit`.
        """
        measured: list[float] = []
        found: list[Prediction] = []
        for seen, unseen in _splits(self.observations, count, seed):
            found += self._fit(seen, self.model.batch, self.model.resolution).predict([o.spec for o in unseen])
            measured += [o.seconds for o in unseen]
        inside = [p.low_s <= s <= p.high_s for p, s in zip(found, measured, strict=True)]
        return held_out(measured, [p.seconds for p in found], inside)

    def shortlist(
        self,
        specs: Sequence[ArchSpec],
        *,
        limit_s: float | None = None,
        keep: int | None = None,
        chance: float = FAIR_CHANCE,
    ) -> list[ArchSpec]:
        """Those worth timing, the fastest first: with that chance to be within `limit_s`, and at most `keep` of them.

        Raises ValueError where neither is given, and for a limit that isn't positive.
        """
        if limit_s is None and keep is None:
            raise ValueError("shortlist: give a limit_s, how many to keep, or both")
        if limit_s is not None and not limit_s > 0:
            raise ValueError(f"shortlist: limit_s {limit_s!r} must be more than 0")
        ranked = sorted(zip(self.predict(specs), specs, strict=True), key=lambda pair: pair[0].seconds)
        fair = [spec for p, spec in ranked if limit_s is None or p.chance_within(limit_s) >= chance]
        return fair[:keep]


def _splits(observations: Observations, count: int, seed: int) -> Iterator[tuple[list[Observation], list[Observation]]]:
    """(the others, a fold) for each fold."""
    for fold in folds([o.spec.arch_id for o in observations], count, seed):
        inside = set(fold)
        yield [o for i, o in enumerate(observations) if i not in inside], [observations[i] for i in fold]


def _scatter(observations: Observations, batch: int, resolution: int) -> float:
    """Deviation of the logarithms of held-out times that the model's own doubt leaves open."""
    left: list[float] = []
    for seen, unseen in _splits(observations, SCATTER_FOLDS, 0):
        seconds, doubts = Model.fit(seen, batch, resolution).predict([o.spec for o in unseen])
        errors = np.log([o.seconds for o in unseen]) - np.log(seconds)
        left += list(errors**2 - doubts**2)
    return math.sqrt(max(float(np.mean(left)), LEAST_SCATTER**2))
