"""An Optuna sampler for two objectives of which one, the cost, is known for any candidate before it runs.

    sampler = KnownCostSampler(lambda candidates, trials: [latency_ms(c) for c in candidates], reference=(0.85, 50))
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)

Only the first objective is modeled, by a Gaussian process; the cost is used as it is. The sampler proposes the
candidate with the largest expected hypervolume improvement. Without `cost` the second objective is modeled too, and its
mean is used. With one objective, the criterion reduces to expected improvement.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial
from threadpoolctl import threadpool_limits

from nas.samplers.known_cost.acquisition import AcquisitionModel
from nas.samplers.known_cost.encoding import Distributions, Params, draw, encode, log_sizes, vary
from nas.samplers.known_cost.gaussian_process import SIZES
from nas.samplers.known_cost.history import ReadTrial, TrialHistory, completed_values

Array = NDArray[np.float64]

_BLAS_LOCK = threading.Lock()  # the number of BLAS threads belongs to the whole process

STARTUP_TRIALS = 8
POOL_SIZE, CHILDREN, ROUNDS = 300, 100, 2  # new candidates, then in each round children of the best
MAX_PARENTS, ELITE_SIZE = 20, 10  # trials, candidates
MAX_DRAWS = 5  # of a pool, while every candidate of it is excluded
MAX_OBSERVED = 1000  # trials that the model is fitted to


class Candidates(Protocol):
    """A source of candidates."""

    def __call__(self, parents: Sequence[Params], count: int, rng: random.Random) -> list[Params]:
        """Return `count` parameter sets of the space, some of them derived from `parents` where there are any."""


class Outlook(NamedTuple):
    """What the sampler expects of its proposal, in coordinates where more is better.

    Attributes:
        number: number of the trial.
        params: its parameters.
        quality: expected first objective.
        cost: second objective.
        gain: expected hypervolume improvement, see `AcquisitionModel.gains`.
        repeat_gain: that of a repetition by chance alone, see `AcquisitionModel.repeat_gain`.
    """

    number: int
    params: Params
    quality: float
    cost: float
    gain: float
    repeat_gain: float


class KnownCostSampler(BaseSampler):
    """Proposes the candidate with the largest expected hypervolume improvement at its known cost.

    A proposal is a function of `seed`, the trial's number and the study, so that a study can be resumed anywhere.

    Args:
        cost: second objective of each candidate, given all other trials of the study; NaN excludes a candidate.
            None: modeled.
        reference: both objectives, from which hypervolume is measured; None: derived from the trials.
        distributions: the space, for use before the first trial has it; None: taken from the trials.
        candidates: source of candidates for a space with rules of its own; None: any combination of parameters.
        features: (n, k) further numbers about each candidate, each with a length scale of its own.
        parameters: whether the parameters are features, too.
        sizes: (n, k) logarithms of each candidate's sizes, of which the models have a linear term, so that a trend is
            known beyond the trials; None: those of the parameters that are positive numbers, where they are features.
        read_trial: returns a trial's values, None where it has none; by default the values of completed trials.
        rungs: values of the first objective that a trial has when it is trained to the end; only the last is final.
        repeat_deviations: returns the standard deviations of both objectives between repetitions, as far as they are
            known when a trial is proposed, for `Outlook.repeat_gain` only; None: 0.
        startup: trials spread over the cost before the model is used.
        seed: None for a random one.

    Attributes:
        outlook: what it expected of its latest proposal; None before the model is used.
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
        sizes: Callable[[Sequence[Params]], ArrayLike] | None = None,
        read_trial: ReadTrial | None = None,
        rungs: int = 1,
        repeat_deviations: Callable[[], tuple[float, float]] | None = None,
        startup: int = STARTUP_TRIALS,
        seed: int | None = None,
    ) -> None:
        self._cost, self._reference, self._distributions = cost, reference, distributions
        self._candidates, self._features, self._parameters = candidates, features, parameters
        self._sizes = sizes
        self._read_trial, self._rungs = read_trial or completed_values, rungs
        self._repeat_deviations = repeat_deviations or (lambda: (0.0, 0.0))
        self._startup = max(startup, 2)
        self.outlook: Outlook | None = None
        self._seed = random.SystemRandom().getrandbits(32) if seed is None else seed
        self._intersection = IntersectionSearchSpace()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the space; ValueError for more than two objectives."""
        if len(study.directions) > 2:
            raise ValueError(f"KnownCostSampler: {len(study.directions)} objectives; it supports one or two")
        return dict(self._distributions or self._intersection.calculate(study))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a parameter that is not in the space."""
        return draw(param_distribution, random.Random(f"{self._seed}/{trial.number}/{param_name}"))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of the next trial."""
        self.outlook = None
        if not search_space:
            return {}
        with _BLAS_LOCK, threadpool_limits(limits=1):  # the matrices are small, and training needs the other cores
            history = TrialHistory.of(study, trial, search_space, self._read_trial, MAX_OBSERVED)
            return self._propose(history, trial.number)

    def _propose(self, history: TrialHistory, number: int) -> Params:
        rng = random.Random(f"{self._seed}/{number}")
        parents: list[Params] = []
        for _ in range(MAX_DRAWS):
            pool, costs = self._allowed(history, self._vary(history, parents, POOL_SIZE, rng))
            if pool:
                break
            parents = self._best(history)  # few candidates are left or allowed, perhaps near those that were
        else:  # the space is exhausted, or all candidates of all draws are excluded
            return self._vary(history, [], 1, rng)[0]
        if self._usable_trials(history) < self._startup:
            return pool[0] if costs is None else pool[np.argsort(costs, kind="stable")[self._turn(number, len(pool))]]
        acquisition, parents = self._fit(history)
        best, gain = self._largest_gain(history, acquisition, parents, pool, costs, rng)
        self.outlook = self._outlook(history, acquisition, number, best, gain)
        return best

    def _usable_trials(self, history: TrialHistory) -> int:
        """Count the trials with a finite first objective and a cost that is finite or can be computed."""
        priced = history.single or self._cost is not None
        return sum(
            math.isfinite(curve[-1]) and (math.isfinite(cost) or (priced and math.isnan(cost)))
            for curve, cost in zip(history.curves, history.costs, strict=True)
        )

    def _turn(self, number: int, count: int) -> int:
        """Return the place of startup trial `number` among `count` candidates by cost: both ends, then the gaps."""
        order = sorted(range(self._startup), key=van_der_corput)
        return round((1 - order[number % self._startup] / (self._startup - 1)) * (count - 1))

    def _largest_gain(
        self,
        history: TrialHistory,
        acquisition: AcquisitionModel,
        parents: Sequence[Params],
        pool: list[Params],
        costs: Array | None,
        rng: random.Random,
    ) -> tuple[Params, float]:
        """Search the pool and children of the best trials, then children of the best candidates so far."""
        children, child_costs = self._allowed(history, self._vary(history, parents, CHILDREN, rng))
        pool = pool + children
        costs = None if costs is None or child_costs is None else np.concatenate([costs, child_costs])
        best: list[tuple[float, Params]] = [(0.0, pool[0])]
        for left in range(ROUNDS, -1, -1):
            gains = acquisition.gains(self._rows(history, pool)[0], costs)
            best = sorted([*best, *zip(gains.tolist(), pool, strict=True)], key=lambda found: -found[0])[:ELITE_SIZE]
            if left:
                elite = [params for _, params in best]
                pool, costs = self._allowed(history, self._vary(history, elite, CHILDREN, rng))
            if not pool:
                break
        return best[0][1], best[0][0]

    def _outlook(
        self, history: TrialHistory, acquisition: AcquisitionModel, number: int, params: Params, gain: float
    ) -> Outlook:
        quality, cost = acquisition.expected(self._rows(history, [params])[0], self._costs(history, [params]))
        repeat_gain = acquisition.repeat_gain(*self._repeat_deviations(), near=float(cost[0]))
        return Outlook(number, params, float(quality[0]), float(cost[0]), gain, repeat_gain)

    def _allowed(self, history: TrialHistory, candidates: Sequence[Params]) -> tuple[list[Params], Array | None]:
        """Return the distinct new candidates that are not excluded, and their costs."""
        fresh = history.unseen(candidates)
        costs = self._costs(history, fresh)
        if costs is None:
            return fresh, None
        return [c for c, cost in zip(fresh, costs, strict=True) if math.isfinite(cost)], costs[np.isfinite(costs)]

    def _fit(self, history: TrialHistory) -> tuple[AcquisitionModel, list[Params]]:
        """Return the acquisition model of the trials so far, and the parameters of the best of them."""
        params, costs = history.params, history.costs
        unknown = np.flatnonzero(np.isnan(costs))
        if len(unknown) and (computed := self._costs(history, [params[i] for i in unknown])) is not None:
            costs[unknown] = computed
        rows, groups = self._rows(history, params)
        acquisition = AcquisitionModel.of(
            history.curves,
            costs,
            rows,
            groups,
            rungs=self._rungs,
            running=history.running,
            reference=history.signed_reference(self._reference),
            priced=history.single or self._cost is not None,
        )
        if history.pending:
            pending_rows = self._rows(history, history.pending)[0]
            acquisition = acquisition.with_pending(pending_rows, self._costs(history, history.pending))
        return acquisition, self._best(history)

    def _best(self, history: TrialHistory) -> list[Params]:
        params = history.params
        return [params[i] for i in history.best_first()[:MAX_PARENTS]]

    def _vary(self, history: TrialHistory, parents: Sequence[Params], count: int, rng: random.Random) -> list[Params]:
        if self._candidates is not None:
            return self._candidates(parents, count, rng)
        return vary(history.space, parents, count, rng)

    def _costs(self, history: TrialHistory, candidates: Sequence[Params]) -> Array | None:
        """Return costs where more is better; None where they are modeled."""
        if self._cost is None:
            return np.ones(len(candidates)) if history.single else None
        costs = np.asarray(self._cost(candidates, history.trials) if candidates else (), dtype=float)
        return np.where(np.isnan(costs), np.nan, 1.0) if history.single else history.signs[1] * costs

    def _rows(self, history: TrialHistory, candidates: Sequence[Params]) -> tuple[Array, NDArray[np.int64]]:
        """Return features (n, d) and their groups (d,): parameters, further features, sizes."""
        space = history.space if self._parameters else {}
        rows, groups = encode(space, candidates)
        if self._features is not None:
            more = np.asarray(self._features(candidates), dtype=float)
            rows, groups = np.hstack([rows, more]), np.concatenate([groups, len(space) + np.arange(more.shape[1])])
        own = log_sizes(space, candidates) if self._sizes is None else self._sizes(candidates)
        sizes = np.asarray(own, dtype=float)
        return np.hstack([rows, sizes]), np.concatenate([groups, np.full(sizes.shape[1], SIZES)])


def van_der_corput(number: int) -> float:
    """Return the radical inverse in base 2, 0, 1/2, 1/4, 3/4, ...: any beginning of it is spread evenly."""
    return int(f"{number:b}"[::-1], 2) / 2 ** number.bit_length() if number else 0.0
