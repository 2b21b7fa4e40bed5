"""The trials of a study as the sampler sees them: what they have shown, what is on its way, what was asked before."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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


class Observed(NamedTuple):
    """What a trial has shown so far, in the units of the objectives.

    A quality that is not finite says that the trial came to nothing: whatever is like it will, too.
    """

    qualities: tuple[float, ...]  # rung by rung; only the last rung's is final
    cost: float | None = None


Observe = Callable[[FrozenTrial], Observed | None]


def values_of(trial: FrozenTrial) -> Observed | None:
    """The values of a complete trial."""
    if trial.state is not TrialState.COMPLETE:
        return None
    return Observed((trial.values[0],), trial.values[1] if len(trial.values) > 1 else None)


@dataclass(frozen=True)
class TrialHistory:
    """What the sampler knows of a study. Signs turn the objectives so that more is better."""

    space: Distributions
    signs: tuple[float, ...]
    trials: Sequence[FrozenTrial]  # all but the one asking, wherever they come from
    asked: Sequence[Params]  # of those that lie in the space
    shown: Sequence[tuple[FrozenTrial, Observed]]
    pending: Sequence[Params]

    @classmethod
    def of(cls, study: Study, asking: FrozenTrial, space: Distributions, observe: Observe, most: int) -> TrialHistory:
        """All trials but the one asking; of those that have shown something `most`: the best half, and the latest."""
        others = [t for t in study.get_trials(deepcopy=False) if t.number != asking.number]
        inside = [t for t in others if _inside(t, space)]
        observed = [(t, observe(t)) for t in inside]
        shown = [(t, o) for t, o in observed if o is not None]
        pending = [t.params for t, o in observed if o is None and t.state is TrialState.RUNNING]
        signs = tuple(1.0 if d is StudyDirection.MAXIMIZE else -1.0 for d in study.directions)
        whole = cls(space, signs, others, [t.params for t in inside], shown, pending)
        if len(shown) <= most:
            return whole
        best = whole.best_first()
        kept = sorted({*best[: most // 2], *range(len(shown) - most // 2, len(shown))})
        return replace(whole, shown=[shown[i] for i in kept])

    @property
    def single(self) -> bool:
        """Whether quality is the only objective."""
        return len(self.signs) < 2

    @property
    def params(self) -> list[Params]:
        """Of the trials that have shown something, as all that follows."""
        return [t.params for t, _ in self.shown]

    @property
    def histories(self) -> list[list[float]]:
        """Qualities rung by rung, more being better; [-inf] of what came to nothing."""
        found = [[self.signs[0] * quality for quality in o.qualities] for _, o in self.shown]
        return [history if np.isfinite(history).all() else [-math.inf] for history in found]

    @property
    def running(self) -> NDArray[np.bool_]:
        """Which of them are not over."""
        return np.array([t.state is TrialState.RUNNING for t, _ in self.shown], dtype=bool)

    @property
    def costs(self) -> Array:
        """More being better; NaN where unknown, -inf where infinitely bad, 1 where there is none."""
        if self.single:
            return np.ones(len(self.shown))
        costs = np.array([self.signs[1] * (math.nan if o.cost is None else o.cost) for _, o in self.shown])
        return np.where(np.isposinf(costs), np.nan, costs)

    def best_first(self) -> list[int]:
        """WorkerSpec of the trials: the highest rung first, then by non-domination rank, then the latest."""
        rungs = np.array([len(o.qualities) for _, o in self.shown])
        points = np.column_stack([[h[-1] for h in self.histories], np.nan_to_num(self.costs, nan=-np.inf)])
        ranks = np.zeros(len(points), dtype=int)
        for rung in set(rungs):
            ranks[rungs == rung] = moocore.pareto_rank(points[rungs == rung], maximise=True)
        return sorted(range(len(points)), key=lambda i: (-rungs[i], ranks[i], -i))

    def turned(self, reference: tuple[float, float] | None) -> tuple[float, float] | None:
        """The reference point where more is better."""
        if reference is None:
            return None
        return self.signs[0] * reference[0], 0.0 if self.single else self.signs[1] * reference[1]

    def unseen(self, candidates: Sequence[Params]) -> list[Params]:
        """Those that the study does not have, each once."""
        fresh = {self._key(params): params for params in candidates}
        for params in self.asked:
            fresh.pop(self._key(params), None)
        return list(fresh.values())

    def _key(self, params: Params) -> tuple[Any, ...]:
        return tuple(params[name] for name in self.space)


def _inside(trial: FrozenTrial, space: Distributions) -> bool:
    return all(name in trial.params and _holds(space[name], trial.params[name]) for name in space)


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except ValueError:  # a category that is none of the choices
        return False
