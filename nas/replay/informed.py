"""Optuna's samplers with the knowledge that known-cost has of an architecture before it is trained.

A control searches the space of features, as cost and structure, instead of the parameters. Its proposal is a point of
that space, and the architecture that is not evaluated yet and lies nearest to the point is the next trial. So whatever
models the control has, they see the same features and the exact cost, and duplicates cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.replay.published_table import Array, PublishedTable

INFORMED = "informed-"  # prefix of the samplers' names


class FeatureSpaceSampler(BaseSampler):
    """Proposes the architecture whose features are nearest to a proposal of another sampler.

    The other sampler's trials are kept in memory, so that a study cannot be continued in another process.

    Args:
        control: Samples the space of features.
        table: Published results, of which the accuracies are read only where a trial has ended.
        sources: Sources of the features.
    """

    def __init__(self, control: BaseSampler, table: PublishedTable, sources: Sequence[str]) -> None:
        features = table.features(sources)
        low, high = features.min(axis=0), features.max(axis=0)
        self._features: Array = ((features - low) / np.where(high > low, high - low, 1.0))[:, high > low]
        self._table = table
        self._space: dict[str, BaseDistribution] = {
            f"x{i}": FloatDistribution(0.0, 1.0) for i in range(self._features.shape[1])
        }
        self._inner = optuna.create_study(directions=["maximize", "maximize"], sampler=control)
        self._asked: dict[int, tuple[int, FrozenTrial]] = {}  # by number: row of the table and the control's proposal
        self._left = np.ones(len(features), dtype=bool)  # architectures that were not proposed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that are sampled together."""
        return {name: CategoricalDistribution(choices) for name, choices in self._table.space.choices().items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return all parameters of a trial."""
        for other in study.get_trials(deepcopy=False):
            if other.number in self._asked and other.state is TrialState.COMPLETE:
                self._tell(*self._asked.pop(other.number), other.user_attrs["record"]["rungs"][-1]["score"])
        proposal = self._inner.ask(self._space)
        point = np.array([proposal.params[name] for name in self._space])
        distances = ((self._features - point) ** 2).sum(axis=1)
        row = int(np.argmin(np.where(self._left, distances, np.inf)))
        self._left[row] = False
        frozen = self._inner.get_trials(deepcopy=False)[proposal.number]
        self._asked[trial.number] = row, frozen
        self._inner.tell(proposal, state=TrialState.FAIL)  # the architecture takes its place
        return dict(self._table.space.encode(self._table.architectures[row]))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Refuse a parameter that the space does not have."""
        raise ValueError(f"{param_name!r} is not a parameter of {self._table.bench}")

    def _tell(self, row: int, proposal: FrozenTrial, score: float) -> None:
        """Add an evaluated architecture to the control's trials, in the place of the proposal."""
        self._inner.add_trial(
            create_trial(
                values=[score, -float(self._table.costs[row])],
                params={name: float(value) for name, value in zip(self._space, self._features[row], strict=True)},
                distributions=self._space,
                system_attrs=proposal.system_attrs,  # NSGA-II keeps its generations there
            )
        )
