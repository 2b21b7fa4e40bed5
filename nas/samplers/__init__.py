"""Samplers by name: ours and Optuna's, all of them `optuna.samplers.BaseSampler`."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from nas.samplers.evolution import Evolution
from nas.samplers.known_cost import KnownCostSampler
from nas.storage.store import trial_records
from nas.study.config import KNOWN_COST, OPTUNA_SAMPLERS, RANDOM_TRIALS, SearchConfig, check_sampler
from nas.study.pareto import reference_point
from nas.study.records import Expectation, Objective
from nas.study.seed_noise import assumed_noise
from nas.study.space_protocol import Architecture, SearchSpace
from search_space import Space

if TYPE_CHECKING:
    from nas.samplers.cost_model import SpaceCostModel


class SpaceSampler(BaseSampler):
    """Samples whole architectures by `propose(trials, rng)`, so that the space's constraints always hold.

    The random state is a function of `seed` and the trial's number, so that a resumed study proposes the same. `trials`
    are the records of all trials so far: also baselines, which may lie outside the space, duplicates, and trials that
    are running or have failed.
    """

    def __init__(
        self, space: SearchSpace, propose: Callable[[Sequence[Any], random.Random], Architecture], seed: int
    ) -> None:
        self._space = space
        self._propose = propose
        self._seed = seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that are sampled together."""
        return {name: CategoricalDistribution(choices) for name, choices in self._space.choices().items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return all parameters of a trial."""
        rng = random.Random(f"{self._seed}/{trial.number}")
        return dict(self._space.encode(self._propose(trial_records(study.get_trials(deepcopy=False)), rng)))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Refuse a parameter that the space does not have."""
        raise ValueError(f"{param_name!r} is not a parameter of the search space {self._space.name!r}")


class PerTrial(BaseSampler):
    """One of Optuna's samplers, constructed for every trial with a seed from the trial's number.

    Optuna's samplers keep their knowledge in the study, but not their random state, which would restart on resume.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make, self._seed = make, seed
        self._current = make(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Construct the trial's sampler."""
        self._current = self._make(random.Random(f"{self._seed}/{trial.number}").getrandbits(31))
        self._current.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that are sampled together."""
        return self._current.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return those of a trial."""
        return self._current.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return one parameter of a trial."""
        return self._current.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Report a trial's end to its sampler."""
        self._current.after_trial(study, trial, state, values)


class SearchSampler(KnownCostSampler):
    """The sampler of a search by known-cost, which knows what it expects of its proposals.

    Args:
        cost_model: Predicts the candidates' costs.
        reference: Score and cost from which hypervolume is measured.
        space: The architectures to sample from.
        config: The study's settings.
        cost: The second objective, one of `COSTS`.
    """

    def __init__(
        self, cost_model: SpaceCostModel, reference: tuple[float, float], space: Space, config: SearchConfig, cost: str
    ) -> None:
        from nas.samplers.cost_model import read_trial

        self._cost_model, timed = cost_model, "throughput" in config.objectives
        seed_noise = assumed_noise(config.space, config.distill.rung_steps[-1]).deviation
        super().__init__(
            cost_model.costs,
            reference=reference,
            distributions={name: CategoricalDistribution(choices) for name, choices in space.choices().items()},
            candidates=cost_model.candidates,
            features=cost_model.features,
            sizes=cost_model.sizes,
            read_trial=partial(read_trial, cost=cost),
            rungs=len(config.distill.rung_steps),
            repeat_deviations=lambda: (seed_noise, cost_model.timing_deviation() if timed else 0.0),
            seed=config.seed,
        )

    def expected(self, number: int) -> Expectation | None:
        """Return what it expects of its latest proposal, trial `number`; None where no model of the trials chose it."""
        if self.outlook is None or self.outlook.number != number:
            return None
        ratio = self._cost_model.trusted_ratio(self.outlook.params)
        return Expectation(self.outlook.quality, self.outlook.gain, self.outlook.repeat_gain, ratio, self._rungs - 1)


def _known_cost(space: SearchSpace, objectives: Sequence[Objective], config: SearchConfig) -> BaseSampler:
    from nas.samplers.cost_model import SpaceCostModel  # imports torch

    if not isinstance(space, Space):
        raise ValueError(f"known-cost: no cost model for the space {space.name!r}; see nas.samplers.known_cost")
    check_sampler(config)
    names = [objective.name for objective in objectives]
    cost = names[1] if len(names) > 1 else "throughput"  # unused with score alone
    cost_model = SpaceCostModel(space, config, cost)
    score, reference_cost = (*reference_point(objectives), 0.0)[:2]
    return SearchSampler(cost_model, (score, reference_cost), space, config, cost)


def _evolution(space: SearchSpace, objectives: Sequence[Objective], config: SearchConfig) -> BaseSampler:
    return SpaceSampler(space, Evolution(space, objectives, RANDOM_TRIALS["evolution"]).propose, config.seed)


def _random(space: SearchSpace, objectives: Sequence[Objective], config: SearchConfig) -> BaseSampler:
    return SpaceSampler(space, lambda trials, rng: space.sample(rng), config.seed)


# Optuna's own samplers by seed.
_OPTUNA: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: RandomSampler(seed=seed),
    "nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=RANDOM_TRIALS["nsga2"]),
    "tpe": lambda seed: TPESampler(
        seed=seed, multivariate=True, constant_liar=True, n_startup_trials=RANDOM_TRIALS["tpe"]
    ),
    "gp": lambda seed: GPSampler(seed=seed, n_startup_trials=RANDOM_TRIALS["gp"]),
}


def control(name: str, seed: int) -> BaseSampler:
    """Return one of Optuna's samplers, for any Optuna space."""
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        return _OPTUNA[name](seed)


def _optuna(name: str, space: SearchSpace, objectives: Sequence[Objective], config: SearchConfig) -> BaseSampler:
    return PerTrial(partial(control, name), config.seed)


SAMPLERS: dict[str, Callable[[SearchSpace, Sequence[Objective], SearchConfig], BaseSampler]] = {
    KNOWN_COST: _known_cost,
    "evolution": _evolution,
    "random": _random,
    **{name: partial(_optuna, name) for name in OPTUNA_SAMPLERS},
}


def make_sampler(config: SearchConfig, space: SearchSpace, objectives: Sequence[Objective]) -> BaseSampler:
    """Return the sampler that `config` names.

    Args:
        config: also has the seed, and the settings of the cost model: resolution, batch, reference, limits, rungs.
        space: the architectures to sample from.
        objectives: the study's objectives, in order.

    Raises:
        ValueError: it does not support the space.
        ConfigError: no sampler has the name, or it does not support the objectives.
    """
    check_sampler(config)
    return SAMPLERS[config.sampler](space, objectives, config)
