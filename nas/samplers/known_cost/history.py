"""The trials of a study as the sampler sees them: values so far, trials under way, parameters already proposed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import moocore
import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.samplers.known_cost.encoding import Distributions, Params

Array = NDArray[np.float64]


class TrialValues(NamedTuple):
    """Values of a trial so far, in the units of the objectives.

    A first objective that is not finite marks a failure that similar candidates will share.
    """

    qualities: tuple[float, ...]  # the first objective rung by rung; only the last rung's value is final
    cost: float | None = None


ReadTrial = Callable[[FrozenTrial], TrialValues | None]


def completed_values(trial: FrozenTrial) -> TrialValues | None:
    """Return the values of a completed trial, None for any other."""
    if trial.state is not TrialState.COMPLETE:
        return None
    return TrialValues((trial.values[0],), trial.values[1] if len(trial.values) > 1 else None)


@dataclass(frozen=True)
class TrialHistory:
    """All trials of a study but the current one. Signs turn both objectives so that more is better."""

    space: Distributions
    signs: tuple[float, ...]
    trials: Sequence[FrozenTrial]  # all, also those outside the space
    proposed: Sequence[Params]  # of the trials inside the space
    observed: Sequence[tuple[FrozenTrial, TrialValues]]  # trials inside the space that have values
    pending: Sequence[Params]  # of running trials without values

    @classmethod
    def of(
        cls, study: Study, current: FrozenTrial, space: Distributions, read_trial: ReadTrial, max_observed: int
    ) -> TrialHistory:
        """Read a study's trials; of those with values keep `max_observed`: the best half and the latest."""
        others = [t for t in study.get_trials(deepcopy=False) if t.number != current.number]
        choices = {name: getattr(distribution, "choices", ()) for name, distribution in space.items()}
        inside = [t for t in others if _inside(t.params, space, choices)]
        values = [(t, read_trial(t)) for t in inside]
        observed = [(t, v) for t, v in values if v is not None]
        pending = [t.params for t, v in values if v is None and t.state is TrialState.RUNNING]
        signs = tuple(1.0 if d is StudyDirection.MAXIMIZE else -1.0 for d in study.directions)
        history = cls(space, signs, others, [t.params for t in inside], observed, pending)
        if len(observed) <= max_observed:
            return history
        half = max_observed // 2
        kept = sorted({*history.best_first()[:half], *range(len(observed) - half, len(observed))})
        return replace(history, observed=[observed[i] for i in kept])

    @property
    def single(self) -> bool:
        """Whether the study has one objective only."""
        return len(self.signs) < 2

    @property
    def params(self) -> list[Params]:
        """Parameters of the observed trials; `curves`, `running` and `costs` have the same order."""
        return [t.params for t, _ in self.observed]

    @property
    def curves(self) -> list[list[float]]:
        """Values of the first objective rung by rung, more is better; [-inf] where one is not finite."""
        curves = [[self.signs[0] * quality for quality in values.qualities] for _, values in self.observed]
        return [curve if np.isfinite(curve).all() else [-math.inf] for curve in curves]

    @property
    def running(self) -> NDArray[np.bool_]:
        """Which of the observed trials are still running."""
        return np.array([t.state is TrialState.RUNNING for t, _ in self.observed], dtype=bool)

    @property
    def costs(self) -> Array:
        """Costs, more is better: NaN where unknown, -inf where infinitely bad, 1 with a single objective."""
        if self.single:
            return np.ones(len(self.observed))
        costs = np.array([self.signs[1] * (math.nan if v.cost is None else v.cost) for _, v in self.observed])
        return np.where(np.isposinf(costs), np.nan, costs)

    def best_first(self) -> list[int]:
        """Return indices of observed trials: the highest rung first, then by non-domination rank, then the latest."""
        rungs = np.array([len(values.qualities) for _, values in self.observed])
        points = np.column_stack([[curve[-1] for curve in self.curves], np.nan_to_num(self.costs, nan=-np.inf)])
        ranks = np.zeros(len(points), dtype=int)
        for rung in set(rungs):
            ranks[rungs == rung] = moocore.pareto_rank(points[rungs == rung], maximise=True)
        return sorted(range(len(points)), key=lambda i: (-rungs[i], ranks[i], -i))

    def signed_reference(self, reference: tuple[float, float] | None) -> tuple[float, float] | None:
        """Return a reference point in coordinates where more is better."""
        if reference is None:
            return None
        return self.signs[0] * reference[0], 0.0 if self.single else self.signs[1] * reference[1]

    def unseen(self, candidates: Sequence[Params]) -> list[Params]:
        """Return the distinct candidates that no trial has proposed yet."""
        fresh = {self._key(params): params for params in candidates}
        return [params for key, params in fresh.items() if key not in self._proposed_keys]

    @cached_property
    def _proposed_keys(self) -> set[tuple[Any, ...]]:
        return set(map(self._key, self.proposed))

    def _key(self, params: Params) -> tuple[Any, ...]:
        return tuple(map(params.__getitem__, self.space))


def _inside(params: Params, space: Distributions, choices: Mapping[str, Sequence[Any]]) -> bool:
    """Return whether parameters are in the space, whose categories have these choices: the usual, quick test."""
    return all(
        name in params and (params[name] in some or _holds(space[name], params[name])) for name, some in choices.items()
    )


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except ValueError:  # the value is not one of a categorical's choices
        return False
