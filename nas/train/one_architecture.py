"""A search space of one architecture: a training is a study of it, so that every command takes its folder."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search_space import NetworkSpec, network_spec


@dataclass(frozen=True)
class OneArchitecture:
    """The space, see `nas.study.space_protocol.SearchSpace`.

    Args:
        name: The architecture's name.
        spec: The architecture.
    """

    name: str
    spec: NetworkSpec

    def choices(self) -> Mapping[str, tuple[Any, ...]]:
        """Return the only choice."""
        return {"architecture": (self.name,)}

    def count(self) -> int:
        """Return 1."""
        return 1

    def decode(self, params: Mapping[str, Any]) -> NetworkSpec:
        """Return the architecture."""
        return self.spec

    def encode(self, spec: NetworkSpec) -> dict[str, Any]:
        """Return the architecture's name as the only parameter."""
        return {"architecture": self.name}

    def parse(self, plain: Mapping[str, Any]) -> NetworkSpec:
        """Return the architecture of its plain data."""
        return network_spec(plain)

    def contains(self, spec: NetworkSpec) -> bool:
        """Return whether this is the architecture."""
        return spec == self.spec

    def sample(self, rng: random.Random) -> NetworkSpec:
        """Return the architecture."""
        return self.spec

    def mutate(self, spec: NetworkSpec, rng: random.Random) -> NetworkSpec:
        """Return the architecture, which has no neighbor."""
        return self.spec

    def crossover(self, a: NetworkSpec, b: NetworkSpec, rng: random.Random) -> NetworkSpec:
        """Return the architecture."""
        return self.spec
