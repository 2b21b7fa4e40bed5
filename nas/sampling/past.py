"""The trials of a study as the sampler sees them: what they have shown, what is on its way, what was asked before."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import moocore
import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.sampling.units import Distributions, Params

Array = NDArray[np.float64]


class Observed(NamedTuple):
    """What a trial has shown so far, in the units of the objectives."""

    qualities: tuple[float, ...]  # rung by rung; only the last rung's is final
    cost: float | None = None


Observe = Callable[[FrozenTrial], Observed | None]


def values_of(trial: FrozenTrial) -> Observed | None:
    """The values of a complete trial."""
    if trial.state is not TrialState.COMPLETE:
        return None
    return Observed((trial.values[0],), trial.values[1] if len(trial.values) > 1 else None)


@dataclass(frozen=True)
class Past:
    """Trials whose parameters all lie in the space. Signs turn the objectives so that more is better."""

    space: Distributions
    signs: tuple[float, ...]
    trials: Sequence[FrozenTrial]
    shown: Sequence[tuple[FrozenTrial, Observed]]
    pending: Sequence[Params]

    @classmethod
    def of(cls, study: Study, asking: FrozenTrial, space: Distributions, observe: Observe, most: int) -> Past:
        """All trials but the one asking; of those that have shown something `most`: the best half, and the latest."""
        others = [t for t in study.get_trials(deepcopy=False) if t.number != asking.number and _inside(t, space)]
        observed = [(t, observe(t)) for t in others]
        shown = [(t, o) for t, o in observed if o is not None and np.isfinite(o.qualities).all()]
        pending = [t.params for t, o in observed if o is None and t.state is TrialState.RUNNING]
        signs = tuple(1.0 if d is StudyDirection.MAXIMIZE else -1.0 for d in study.directions)
        whole = cls(space, signs, others, shown, pending)
        if len(shown) <= most:
            return whole
        best = whole.best_first()
        kept = sorted({*best[: most // 2], *range(len(shown) - most // 2, len(shown))})
        return cls(space, signs, others, [shown[i] for i in kept], pending)

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
        """Qualities rung by rung, more being better."""
        return [[self.signs[0] * quality for quality in o.qualities] for _, o in self.shown]

    @property
    def costs(self) -> Array:
        """More being better; NaN where unknown, 1 where there is none."""
        if self.single:
            return np.ones(len(self.shown))
        return np.array([self.signs[1] * (math.nan if o.cost is None else o.cost) for _, o in self.shown])

    def best_first(self) -> list[int]:
        """Places of the trials: the highest rung first, then by non-domination rank, then the latest."""
        rungs = np.array([len(o.qualities) for _, o in self.shown])
        points = np.column_stack([[h[-1] for h in self.histories], np.nan_to_num(self.costs, nan=-np.inf)])
        ranks = np.zeros(len(points), dtype=int)
        for rung in set(rungs):
            ranks[rungs == rung] = moocore.pareto_rank(points[rungs == rung], maximise=True)
        return sorted(range(len(points)), key=lambda i: (-rungs[i], ranks[i], -i))

    def turned(self, reference: tuple[float, float] | None) -> tuple[float, float] | None:
        """The reference point where more is better."""
        if self.single:
            low = float(np.quantile([h[-1] for h in self.histories], 0.25)) if reference is None else reference[0]
            return low, 0.0
        return None if reference is None else (self.signs[0] * reference[0], self.signs[1] * reference[1])

    def unseen(self, candidates: Sequence[Params]) -> list[Params]:
        """Those that the study does not have, each once."""
        fresh = {self._key(params): params for params in candidates}
        for trial in self.trials:
            fresh.pop(self._key(trial.params), None)
        return list(fresh.values())

    def _key(self, params: Params) -> tuple[Any, ...]:
        return tuple(params[name] for name in self.space)


def _inside(trial: FrozenTrial, space: Distributions) -> bool:
    return all(
        name in trial.params and distribution._contains(distribution.to_internal_repr(trial.params[name]))
        for name, distribution in space.items()
    )
