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

from nas.sampling.outlook import Outlook
from nas.sampling.past import Observe, Past, values_of
from nas.sampling.units import Distributions, Params, draw, encode, vary

Array = NDArray[np.float64]

STARTUP = 8
POOL, CHILDREN, ROUNDS = 300, 100, 2  # new candidates, then in each round those that vary the best
PARENTS, ELITE = 20, 10  # trials, candidates
MOST = 1000  # trials that the model is made of


class Candidates(Protocol):
    """`count` parameter sets of the space; some of them varied from `parents`, best first, where there are any."""

    def __call__(self, parents: Sequence[Params], count: int, rng: random.Random) -> list[Params]: ...


class KnownCostSampler(BaseSampler):
    """See the module. Its choice is a function of `seed`, the trial's number and the study: it can be resumed anywhere.

    Args:
        cost: second objective of each candidate, given all trials; NaN for what must not be asked. None: modelled.
        reference: (quality, cost) from which hypervolume counts; None: from what the trials show.
        distributions: the space, where no trial has shown it yet; None: as the trials have it.
        candidates: of a space with rules of its own; None: any combination of parameters.
        features: (n, k) numbers known of each candidate beside its parameters, each with a length scale of its own.
        parameters: whether the parameters are features, too.
        observe: what a trial has shown, None where nothing; by default the values of complete trials.
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
        noise: float = 0.0,
        startup: int = STARTUP,
        seed: int | None = None,
    ) -> None:
        self._cost, self._reference, self._distributions = cost, reference, distributions
        self._candidates, self._features, self._parameters = candidates, features, parameters
        self._observe, self._noise, self._startup = observe or values_of, noise, max(startup, 2)
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
        with threadpool_limits(limits=1):  # the matrices are small, and the other cores train
            return self._ask(Past.of(study, trial, search_space, self._observe, MOST), trial.number)

    def _ask(self, past: Past, number: int) -> Params:
        rng = random.Random(f"{self._seed}/{number}")
        pool = past.unseen(self._vary(past, [], POOL, rng))
        if len(past.shown) < self._startup or not pool:
            return self._spread(past, rng.sample(pool, min(len(pool), POOL)), number) or self._vary(past, [], 1, rng)[0]
        return self._most_gain(past, pool, rng)

    def _spread(self, past: Past, pool: Sequence[Params], number: int) -> Params | None:
        """Over the cost, by a low-discrepancy sequence: neither end is left to chance."""
        costs = self._costs(past, pool) if pool else None
        if costs is None:
            return pool[0] if pool else None
        order = np.argsort(costs)[: np.isfinite(costs).sum()]
        return pool[order[int(_van_der_corput(number) * len(order))]] if len(order) else None

    def _most_gain(self, past: Past, pool: list[Params], rng: random.Random) -> Params:
        """Of the pool and of what varies the best trials, then of what varies the best candidates so far."""
        outlook, parents = self._learn(past)
        pool = pool + past.unseen(self._vary(past, parents, CHILDREN, rng))
        best, most = pool[0], -math.inf
        for _ in range(1 + ROUNDS):
            if not pool:
                break
            gains = outlook.gains(self._rows(past, pool)[0], self._costs(past, pool))
            order = np.argsort(-gains, kind="stable")
            if gains[order[0]] > most:
                best, most = pool[order[0]], float(gains[order[0]])
            pool = past.unseen(self._vary(past, [pool[i] for i in order[:ELITE]], CHILDREN, rng))
        return best

    def _learn(self, past: Past) -> tuple[Outlook, list[Params]]:
        """The outlook from the trials so far, and the parameters of the best of them."""
        params, costs = past.params, past.costs
        unknown = np.flatnonzero(np.isnan(costs))
        if len(unknown) and (told := self._costs(past, [params[i] for i in unknown])) is not None:
            costs[unknown] = told
        rows, groups = self._rows(past, params)
        outlook = Outlook.of(
            past.histories,
            costs,
            rows,
            groups,
            reference=past.turned(self._reference),
            noise=self._noise,
            priced=past.single or self._cost is not None,
        )
        if past.pending:
            outlook = outlook.expecting(self._rows(past, past.pending)[0], self._costs(past, past.pending))
        return outlook, [params[i] for i in past.best_first()[:PARENTS]]

    def _vary(self, past: Past, parents: Sequence[Params], count: int, rng: random.Random) -> list[Params]:
        if self._candidates is not None:
            return self._candidates(parents, count, rng)
        return vary(past.space, parents, count, rng)

    def _costs(self, past: Past, candidates: Sequence[Params]) -> Array | None:
        """More is better; None where they are to be modelled."""
        if past.single:
            return np.ones(len(candidates))
        return None if self._cost is None else past.signs[1] * np.asarray(self._cost(candidates, past.trials), float)

    def _rows(self, past: Past, candidates: Sequence[Params]) -> tuple[Array, NDArray[np.int64]]:
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
