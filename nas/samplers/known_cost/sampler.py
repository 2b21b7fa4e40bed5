"""An Optuna sampler for two objectives of which one, the cost, is known of any candidate without running it.

    sampler = KnownCostSampler(lambda candidates, trials: [latency_ms(c) for c in candidates], reference=(0.85, 50))
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)

Only the first objective is modelled, by a Gaussian process; the second is plugged in. Asked is the candidate with the
largest expected hypervolume improvement. Without `cost` the second objective is modelled too and its mean plugged in;
with one objective the expected improvement is what remains. Nothing here knows of networks.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial
from threadpoolctl import threadpool_limits

from nas.samplers.known_cost.acquisition import AcquisitionModel
from nas.samplers.known_cost.encoding import Distributions, Params, draw, encode, vary
from nas.samplers.known_cost.history import Observe, TrialHistory, values_of

Array = NDArray[np.float64]

_ALONE = threading.Lock()  # the number of BLAS threads is the process's

STARTUP = 8
POOL, CHILDREN, ROUNDS = 300, 100, 2  # new candidates, then in each round those that vary the best
PARENTS, ELITE = 20, 10  # trials, candidates
DRAWS = 5  # of new candidates, where none of a draw may be asked
MOST = 1000  # trials that the model is made of


class Candidates(Protocol):
    """`count` parameter sets of the space; some of them varied from `parents`, where there are any."""

    def __call__(self, parents: Sequence[Params], count: int, rng: random.Random) -> list[Params]: ...


class KnownCostSampler(BaseSampler):
    """See the module. Its choice is a function of `seed`, the trial's number and the study: it can be resumed anywhere.

    Args:
        cost: second objective of each candidate, given all other trials of the study; NaN for what must not be asked.
            None: modelled.
        reference: (quality, cost) from which hypervolume counts; None: from what the trials show.
        distributions: the space, where no trial has shown it yet; None: as the trials have it.
        candidates: of a space with rules of its own; None: any combination of parameters.
        features: (n, k) numbers known of each candidate beside its parameters, each with a length scale of its own.
        parameters: whether the parameters are features, too.
        observe: what a trial has shown, None where nothing; by default the values of complete trials.
        rungs: how many qualities a trial shows that is trained to the end; those before the last only inform.
        noise: variance of a quality between repetitions of the same trial.
        startup: trials spread over the cost before the model is used.
        seed: None for another one each time.
    """

    def __init__(
        self,
        cost: Callable[[Sequence[Params], Sequence[FrozenTrial]], ArrayLike] | None = None,
        *,
        reference: tuple[float, float] | None = None,
        distributions: Distributions | None = None,
        candidates: Candidates | None = None,
        features: Callable[[Sequence[Params]], ArrayLike] | None = None,
        parameters: bool = True,
        observe: Observe | None = None,
        rungs: int = 1,
        noise: float = 0.0,
        startup: int = STARTUP,
        seed: int | None = None,
    ) -> None:
        self._cost, self._reference, self._distributions = cost, reference, distributions
        self._candidates, self._features, self._parameters = candidates, features, parameters
        self._observe, self._rungs, self._noise = observe or values_of, rungs, noise
        self._startup = max(startup, 2)
        self._seed = random.SystemRandom().getrandbits(32) if seed is None else seed
        self._intersection = IntersectionSearchSpace()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        if len(study.directions) > 2:
            raise ValueError(f"KnownCostSampler: {len(study.directions)} objectives; it takes a quality and a cost")
        return dict(self._distributions or self._intersection.calculate(study))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return draw(param_distribution, random.Random(f"{self._seed}/{trial.number}/{param_name}"))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        with _ALONE, threadpool_limits(limits=1):  # the matrices are small, and the other cores train
            return self._ask(TrialHistory.of(study, trial, search_space, self._observe, MOST), trial.number)

    def _ask(self, past: TrialHistory, number: int) -> Params:
        rng = random.Random(f"{self._seed}/{number}")
        for _ in range(DRAWS):
            pool, costs = self._allowed(past, self._vary(past, [], POOL, rng))
            if pool:
                break
        else:  # all was asked already, or nothing of what was drawn may be asked
            return self._vary(past, [], 1, rng)[0]
        if self._learnt_from(past) < self._startup:
            return pool[0] if costs is None else pool[np.argsort(costs, kind="stable")[self._turn(number, len(pool))]]
        return self._most_gain(past, pool, costs, rng)

    def _learnt_from(self, past: TrialHistory) -> int:
        """Trials that have come to something, at a cost that is known or will be told."""
        priced = past.single or self._cost is not None
        return sum(
            math.isfinite(history[-1]) and (math.isfinite(cost) or (priced and math.isnan(cost)))
            for history, cost in zip(past.histories, past.costs, strict=True)
        )

    def _turn(self, number: int, count: int) -> int:
        """Where trial `number` of the start lies among `count` candidates by cost: both ends, then the gaps between."""
        order = sorted(range(self._startup), key=_van_der_corput)
        return round((1 - order[number % self._startup] / (self._startup - 1)) * (count - 1))

    def _most_gain(self, past: TrialHistory, pool: list[Params], costs: Array | None, rng: random.Random) -> Params:
        """Of the pool and of what varies the best trials, then of what varies the best candidates so far."""
        acquisition, parents = self._learn(past)
        children, their_costs = self._allowed(past, self._vary(past, parents, CHILDREN, rng))
        pool = pool + children
        costs = None if costs is None or their_costs is None else np.concatenate([costs, their_costs])
        best, most = pool[0], 0.0
        for _ in range(1 + ROUNDS):
            if not pool:
                break
            gains = acquisition.gains(self._rows(past, pool)[0], costs)
            order = np.argsort(-gains, kind="stable")
            if gains[order[0]] > most:
                best, most = pool[order[0]], float(gains[order[0]])
            pool, costs = self._allowed(past, self._vary(past, [pool[i] for i in order[:ELITE]], CHILDREN, rng))
        return best

    def _allowed(self, past: TrialHistory, candidates: Sequence[Params]) -> tuple[list[Params], Array | None]:
        """Those that the study does not have and that may be asked, each once, and what they cost."""
        fresh = past.unseen(candidates)
        costs = self._costs(past, fresh)
        if costs is None:
            return fresh, None
        return [c for c, cost in zip(fresh, costs, strict=True) if math.isfinite(cost)], costs[np.isfinite(costs)]

    def _learn(self, past: TrialHistory) -> tuple[AcquisitionModel, list[Params]]:
        """The acquisition from the trials so far, and the parameters of the best of them."""
        params, costs = past.params, past.costs
        unknown = np.flatnonzero(np.isnan(costs))
        if len(unknown) and (told := self._costs(past, [params[i] for i in unknown])) is not None:
            costs[unknown] = told
        rows, groups = self._rows(past, params)
        acquisition = AcquisitionModel.of(
            past.histories,
            costs,
            rows,
            groups,
            rungs=self._rungs,
            running=past.running,
            reference=past.turned(self._reference),
            noise=self._noise,
            priced=past.single or self._cost is not None,
        )
        if past.pending:
            acquisition = acquisition.expecting(self._rows(past, past.pending)[0], self._costs(past, past.pending))
        return acquisition, [params[i] for i in past.best_first()[:PARENTS]]

    def _vary(self, past: TrialHistory, parents: Sequence[Params], count: int, rng: random.Random) -> list[Params]:
        if self._candidates is not None:
            return self._candidates(parents, count, rng)
        return vary(past.space, parents, count, rng)

    def _costs(self, past: TrialHistory, candidates: Sequence[Params]) -> Array | None:
        """More is better; None where they are to be modelled."""
        if self._cost is None:
            return np.ones(len(candidates)) if past.single else None
        told = np.asarray(self._cost(candidates, past.trials) if candidates else (), dtype=float)
        return np.where(np.isnan(told), np.nan, 1.0) if past.single else past.signs[1] * told

    def _rows(self, past: TrialHistory, candidates: Sequence[Params]) -> tuple[Array, NDArray[np.int64]]:
        """Features (n, d) and their groups (d,)."""
        rows, groups = encode(past.space if self._parameters else {}, candidates)
        if self._features is None:
            return rows, groups
        more = np.asarray(self._features(candidates), dtype=float)
        first = len(past.space) if self._parameters else 0
        return np.hstack([rows, more]), np.concatenate([groups, first + np.arange(more.shape[1])])


def _van_der_corput(number: int) -> float:
    """Radical inverse in base 2: 0, 1/2, 1/4, 3/4, ..."""
    return int(f"{number:b}"[::-1], 2) / 2 ** number.bit_length() if number else 0.0
