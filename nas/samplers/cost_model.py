"""What a search knows of architectures that it has not trained, for `nas.samplers.known_cost.KnownCostSampler`.

Sizes are counted; throughput, latency and memory are predicted from the models measured so far
(`nas.samplers.latency`); lower rungs tell of higher ones. Predictions only choose what to try next.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

from nas.measure.counts.totals import totals
from nas.samplers.known_cost import Observed
from nas.samplers.latency import MAX_MODELS, LatencyModel, Observation
from nas.samplers.latency.stage_costs import stage_costs
from nas.study.architectures import varied
from nas.study.config import SearchConfig
from nas.study.failures import Failure
from nas.study.limits import LIMITS, CountedCosts, Limit, broken_limit
from nas.study.records import TrialState
from search_space import ArchSpec, Space, preset

Array = NDArray[np.float64]
Params = dict[str, Any]
Work = tuple[float, float]

FEWEST = 10  # measured nets that a predictor needs
KEPT = 20_000  # specs in memory
GROWTH = 1.2  # it is made anew once there are so many times the nets
BEYOND = 1.0  # deviations by which a limit has to be broken, as predicted, for a net not to be asked
_NO_MORE = (TrialState.INFEASIBLE, TrialState.FAILED, TrialState.DUPLICATE)
_OF_THE_NET = (
    Failure.OUT_OF_MEMORY,
    Failure.NOT_FINITE,
    Failure.WRONG_OUTPUT,
    Failure.HANG,
)  # others like it fail, too


class _Measured(NamedTuple):
    """A trial that was measured."""

    observation: Observation
    work: Work
    plain: Mapping[str, Any]


class SpaceCostModel:
    """Of one space under one config. What it answers depends on the trials alone, so that a search can be resumed."""

    def __init__(self, space: Space, config: SearchConfig, cost: str = "throughput") -> None:
        """`cost` is one of `COSTS`: what is to be known of every candidate."""
        self._space, self._config, self._cost = space, config, cost
        self._px = config.distill.image_px
        self._model = lru_cache(maxsize=2)(self._fitted)
        self._measured: dict[int, _Measured] = {}  # by the trial's number
        self._specs: dict[tuple[Any, ...], ArchSpec] = {}  # that were asked about, some kB each
        self._work_of_reference = _work_of(preset(config.reference), self._px)

    def candidates(self, parents: Sequence[Params], count: int, rng: random.Random) -> list[Params]:
        """New architectures, and where there are parents mutations and crossovers of these."""
        specs = [self._spec(params) for params in parents]
        if len(self._specs) > KEPT:
            self._specs.clear()
        made = varied(self._space, specs, count, rng)
        encoded = [self._space.encode(spec) for spec in made]
        self._specs.update(zip(map(_key, encoded), made, strict=True))
        return encoded

    def features(self, candidates: Sequence[Params]) -> Array:
        """log2 of multiply-accumulates and of elements moved, of one image, (n, 2), about unit scale."""
        return np.log2([self._work(params) for params in candidates]) - np.log2(self._work_of_reference)

    def costs(self, candidates: Sequence[Params], trials: Sequence[FrozenTrial]) -> Array:
        """log2 of the throughput over the reference's, predicted, or as `COSTS` has it, counted: more is better.

        NaN where a limit is broken, or is likely to be.
        """
        specs = [self._spec(params) for params in candidates]
        numbers = self._look_at(trials)
        nets = numbers[: _milestone(len(numbers))]
        if nets:
            seconds = self._model(nets).seconds(specs)
        else:
            seconds = np.array([macs / self._work_of_reference[0] for macs, _ in map(self._work, candidates)])
        costs = -np.log2(seconds)
        beyond = np.array([self._too_large(spec) for spec in specs], dtype=bool)
        for name, bound in self._config.limits.items():
            if nets and LIMITS[name].measured:
                works = list(map(self._work, candidates))
                beyond |= self._likely_beyond(LIMITS[name], bound, numbers, works, costs)
        if self._cost != "throughput":
            costs = np.array([COSTS[self._cost](totals(spec, self._px)._asdict()) for spec in specs])
        return np.where(beyond, np.nan, costs)

    def _look_at(self, trials: Sequence[FrozenTrial]) -> tuple[int, ...]:
        """Numbers of the trials that were measured; their records are read once."""
        numbers = []
        for trial in trials:
            record = trial.user_attrs.get("record")
            if not record or not record.get("measurement"):
                continue
            plain = record["measurement"]
            if trial.number not in self._measured or self._measured[trial.number].plain != plain:
                spec = ArchSpec.from_dict(record["spec"])
                self._measured[trial.number] = _Measured(
                    Observation(spec, 1 / plain["ratio"]), _work_of(spec, self._px), plain
                )
            numbers.append(trial.number)
        return tuple(numbers)

    def _likely_beyond(
        self, limit: Limit, bound: float, seen: Sequence[int], works: Sequence[Work], costs: Array
    ) -> Any:
        """Whether each net breaks a limit, by a line through what was measured, in logarithms; (n,)."""
        sign = 1.0 if limit.maximum else -1.0  # makes more of it worse
        nets = [self._measured[number] for number in seen if self._measured[number].plain.get(limit.quantity)]
        if len(nets) < FEWEST:
            return np.zeros(len(works), dtype=bool)
        known = np.column_stack(
            [
                np.log2([net.work for net in nets]),
                -np.log2([net.observation.seconds for net in nets]),
                np.ones(len(nets)),
            ]
        )
        reached = sign * np.log2([net.plain[limit.quantity] for net in nets])
        line, *_ = np.linalg.lstsq(known, reached, rcond=None)
        doubt = float(np.std(reached - known @ line))
        expected = np.column_stack([np.log2(works), costs, np.ones(len(works))]) @ line
        return expected > sign * np.log2(bound * limit.scale) + BEYOND * doubt

    def _spec(self, params: Params) -> ArchSpec:
        """Decoded once."""
        if (key := _key(params)) not in self._specs:
            self._specs[key] = self._space.decode(params)
        return self._specs[key]

    def _too_large(self, spec: ArchSpec) -> bool:
        """Tell whether a spec breaks one of the limits that need no measurement."""
        if all(LIMITS[name].measured for name in self._config.limits):
            return False
        counted = totals(spec, self._px)
        return broken_limit(CountedCosts(counted.params, counted.macs), self._config.limits) is not None

    def _work(self, params: Params) -> Work:
        """Multiply-accumulates and elements moved."""
        return _work_of(self._spec(params), self._px)

    def _fitted(self, nets: tuple[int, ...]) -> LatencyModel:
        """From these trials, in units of the reference's time."""
        seen = [self._measured[number].observation for number in nets[-MAX_MODELS:]]
        return LatencyModel.fit(seen, self._config.measure_batch, self._px)


def _key(params: Params) -> tuple[Any, ...]:
    return tuple(params.values())


@lru_cache(maxsize=10_000)
def _work_of(spec: ArchSpec, px: int) -> Work:
    operators = [operator for part in stage_costs(spec, 1, px) for operator in part.operators]
    return sum(o.macs for o in operators), sum(o.moved for o in operators)


def observe(trial: FrozenTrial, cost: str = "throughput") -> Observed | None:
    """Scores rung by rung and one of `COSTS`; None for baselines, which are no part of the search.

    What failed for its own sake has -inf.
    """
    record = trial.user_attrs.get("record")
    if not record or record["baseline"]:
        return None
    if record["state"] == TrialState.FAILED and record["failure"] in _OF_THE_NET:
        return Observed((-math.inf,), COSTS[cost](record))
    if record["state"] in _NO_MORE or not record["rungs"]:
        return None
    return Observed(tuple(rung["score"] for rung in record["rungs"]), COSTS[cost](record))


def _log_ratio(record: Mapping[str, Any]) -> float | None:
    return math.log2(record["measurement"]["ratio"]) if record.get("measurement") else None


# What a search can know of a net before it is trained, read off a trial's record, more being better.
COSTS: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
    "throughput": _log_ratio,
    "params": lambda record: -math.log2(record["params"]) if record["params"] else None,
    "macs": lambda record: -math.log2(record["macs"]) if record["macs"] else None,
}


def _milestone(nets: int) -> int:
    """The largest of FEWEST, FEWEST * GROWTH, ... that is not more than `nets`; 0 for fewer."""
    if nets < FEWEST:
        return 0
    return int(FEWEST * GROWTH ** math.floor(math.log(nets / FEWEST) / math.log(GROWTH) + 1e-9))
