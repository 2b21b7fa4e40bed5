"""A search space of which only some architectures can be evaluated, and samplers of it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from nas.study.space_protocol import SearchSpace
from search_space import ArchSpec, NetworkSpec, Space


@dataclass(frozen=True, eq=False)
class MemberSpace(Space):
    """A search space of which only some architectures can be evaluated.

    Attributes:
        members: These architectures, of the space.
    """

    members: tuple[ArchSpec, ...] = ()

    @classmethod
    def of(cls, space: Space, members: Sequence[ArchSpec]) -> MemberSpace:
        """Return a space with some of its architectures."""
        return cls(**_fields(space), members=tuple(members))

    def count(self) -> int:
        """Return the number of members."""
        return len(self.members)

    def contains(self, spec: NetworkSpec) -> bool:
        """Return whether `spec` is a member."""
        return spec in self._positions

    def decode(self, params: Mapping[str, Any]) -> ArchSpec:
        """Return the member that the spec of `params` differs least from."""
        return self._nearest(self._whole.decode(params))

    def sample(self, rng: random.Random) -> ArchSpec:
        """Return a random member."""
        return rng.choice(self.members)

    def mutate(self, spec: ArchSpec, rng: random.Random) -> ArchSpec:
        """Return another member: one of those nearest to a mutant of `spec`."""
        return self._nearest(self._whole.mutate(spec, rng), rng, other_than=spec)

    def crossover(self, a: ArchSpec, b: ArchSpec, rng: random.Random) -> ArchSpec:
        """Return one of the members nearest to a child of two."""
        return self._nearest(self._whole.crossover(a, b, rng), rng)

    @cached_property
    def _whole(self) -> Space:
        """Return the space with all of its architectures. In this one, `Space.mutate` would end at a member at once."""
        return Space(**_fields(self))

    @cached_property
    def _positions(self) -> dict[ArchSpec, int]:
        return {spec: i for i, spec in enumerate(self.members)}

    @cached_property
    def _genes(self) -> NDArray[np.int16]:
        """Return the number of each member's choice of each gene; -1 where the gene has no effect, (n, genes)."""
        return np.array([self._row(spec) for spec in self.members], dtype=np.int16)

    def _row(self, spec: ArchSpec) -> list[int]:
        params = self.encode(spec)
        active = {gene.name for gene in self.active(params)}
        return [gene.choices.index(params[gene.name]) if gene.name in active else -1 for gene in self.genes]

    def _nearest(
        self, spec: ArchSpec, rng: random.Random | None = None, other_than: ArchSpec | None = None
    ) -> ArchSpec:
        """Return the member with the fewest other choices; of equals a random one, or without `rng` the first."""
        if spec in self._positions and spec != other_than:
            return spec
        different = (self._genes != np.array(self._row(spec), dtype=np.int16)).sum(axis=1)
        if other_than is not None:
            different[self._positions[other_than]] = different.max() + 1
        nearest = np.flatnonzero(different == different.min())
        return self.members[int(nearest[0] if rng is None else rng.choice(nearest.tolist()))]


def _fields(space: Space) -> dict[str, Any]:
    """Return the fields that every space has, by their names."""
    return {field.name: getattr(space, field.name) for field in fields(Space)}


class MemberSampler(BaseSampler):
    """Proposes, in place of another sampler's proposal, the member nearest to it, with the member's own choices.

    The other sampler learns a result with the choices of the architecture that was trained.
    """

    def __init__(self, other: BaseSampler, space: SearchSpace) -> None:
        self._other, self._space = other, space

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Prepare the other sampler."""
        self._other.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that are sampled together: all of them."""
        return {name: CategoricalDistribution(choices) for name, choices in self._space.choices().items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return all parameters of a trial."""
        together = self._other.infer_relative_search_space(study, trial)
        params = self._other.sample_relative(study, trial, together)
        for name, distribution in search_space.items():
            if name not in params:
                params[name] = self._other.sample_independent(study, trial, name, distribution)
        return dict(self._space.encode(self._space.decode(params)))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Refuse a parameter that the space does not have."""
        raise ValueError(f"{param_name!r} is not a parameter of the search space {self._space.name!r}")

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Report a trial's end to the other sampler."""
        self._other.after_trial(study, trial, state, values)
