"""What a search knows of architectures that it has not trained, for `nas.sampling.KnownCostSampler`.

Sizes are counted, throughput is predicted from the nets measured so far (`nas.predict`), and lower rungs tell of higher
ones. Predictions only choose what to try next: what counts is measured.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

from nas.config import SearchConfig
from nas.counters.totals import totals
from nas.predict import LatencyPredictor, Observation
from nas.predict.parts import parts
from nas.records import TrialState
from nas.sampling import Observed
from search_space import ArchSpec, Space, preset

Array = NDArray[np.float64]
Params = dict[str, Any]
Work = tuple[float, float]

FEWEST = 10  # measured nets that a predictor needs
KEPT = 20_000  # specs in memory
GROWTH = 1.2  # it is made anew once there are so many times the nets
MUTATED, CROSSED = 0.6, 0.3  # of the candidates: varied from parents; of these: crossed first
_NO_MORE = (TrialState.INFEASIBLE, TrialState.FAILED, TrialState.DUPLICATE)


class Knowledge:
    """Of one space under one config. What it answers depends on the trials alone, so that a search can be resumed."""

    def __init__(self, space: Space, config: SearchConfig) -> None:
        self._space, self._config = space, config
        self._px = config.distill.image_px
        self._predictor = lru_cache(maxsize=2)(self._fitted)
        self._measured: Sequence[Observation] = ()
        self._specs: dict[tuple[Any, ...], ArchSpec] = {}  # that were asked about, some kB each
        self._work_of_reference = _work_of(preset(config.reference), self._px)

    def candidates(self, parents: Sequence[Params], count: int, rng: random.Random) -> list[Params]:
        """New architectures, and where there are parents mutations and crossovers of these."""
        specs = [self._spec(params) for params in parents]
        if len(self._specs) > KEPT:
            self._specs.clear()
        made = []
        for _ in range(count):
            if not specs or rng.random() > MUTATED:
                made.append(self._space.sample(rng))
                continue
            parent = rng.choice(specs)
            if rng.random() < CROSSED:
                parent = self._space.crossover(parent, rng.choice(specs), rng)
            made.append(self._space.mutate(parent, rng))
        encoded = [self._space.encode(spec) for spec in made]
        self._specs.update(zip(map(_key, encoded), made, strict=True))
        return encoded

    def features(self, candidates: Sequence[Params]) -> Array:
        """log2 of multiply-accumulates and of elements moved, of one image, (n, 2), about unit scale."""
        return np.log2([self._work(params) for params in candidates]) - np.log2(self._work_of_reference)

    def costs(self, candidates: Sequence[Params], trials: Sequence[FrozenTrial]) -> Array:
        """log2 of the throughput over the reference's, predicted; NaN where a limit is broken for certain."""
        specs = [self._spec(params) for params in candidates]
        self._measured = _measured(trials)
        nets = _milestone(len(self._measured))
        if nets:
            seconds = [prediction.seconds for prediction in self._predictor(nets).predict(specs)]
        else:
            seconds = [macs / self._work_of_reference[0] for macs, _ in map(self._work, candidates)]
        return np.where([self._too_large(spec) for spec in specs], np.nan, -np.log2(seconds))

    def _spec(self, params: Params) -> ArchSpec:
        """Decoded once."""
        if (key := _key(params)) not in self._specs:
            self._specs[key] = self._space.decode(params)
        return self._specs[key]

    def _too_large(self, spec: ArchSpec) -> bool:
        """For the limits that need no measurement."""
        limits = {name: limit for name, limit in self._config.limits.items() if name in ("max_params", "max_gmacs")}
        if not limits:
            return False
        counted = totals(spec, self._px)
        known = {"max_params": counted.params, "max_gmacs": counted.macs / 1e9}
        return any(known[name] > limit for name, limit in limits.items())

    def _work(self, params: Params) -> Work:
        """Multiply-accumulates and elements moved."""
        return _work_of(self._spec(params), self._px)

    def _fitted(self, nets: int) -> LatencyPredictor:
        """From the first `nets` measured, in units of the reference's time."""
        return LatencyPredictor.fit(self._measured[:nets], batch=self._config.measure_batch, resolution=self._px)


def _key(params: Params) -> tuple[Any, ...]:
    return tuple(params.values())


@lru_cache(maxsize=10_000)
def _work_of(spec: ArchSpec, px: int) -> Work:
    operators = [operator for part in parts(spec, 1, px) for operator in part.operators]
    return sum(o.macs for o in operators), sum(o.moved for o in operators)


def observe(trial: FrozenTrial) -> Observed | None:
    """Qualities rung by rung and log2 of the throughput ratio; None for baselines, which are no part of the search."""
    record = trial.user_attrs.get("record")
    if not record or record["origin"] != "sampler" or record["state"] in _NO_MORE or not record["rungs"]:
        return None
    return Observed(tuple(rung["quality"] for rung in record["rungs"]), _log_ratio(record))


def _measured(trials: Sequence[FrozenTrial]) -> list[Observation]:
    records = [record for trial in trials if (record := trial.user_attrs.get("record"))]
    return [
        Observation(ArchSpec.from_dict(record["spec"]), 1 / record["measurement"]["ratio"])
        for record in records
        if record.get("measurement")
    ]


def _log_ratio(record: Mapping[str, Any]) -> float | None:
    return math.log2(record["measurement"]["ratio"]) if record.get("measurement") else None


def _milestone(nets: int) -> int:
    """The largest of FEWEST, FEWEST * GROWTH, ... that is not more than `nets`; 0 for fewer."""
    if nets < FEWEST:
        return 0
    return int(FEWEST * GROWTH ** math.floor(math.log(nets / FEWEST) / math.log(GROWTH) + 1e-9))
