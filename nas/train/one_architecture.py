"""A search space of one architecture: a training is a study of it, so that every command takes its folder."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search_space import ArchSpec


@dataclass(frozen=True)
class OneArchitecture:
    """The space, see `nas.study.architectures.SearchSpace`.

    Args:
        name: The architecture's name.
        spec: The architecture.
    """

    name: str
    spec: ArchSpec

    def choices(self) -> Mapping[str, tuple[Any, ...]]:
        """Return the only choice."""
        return {"architecture": (self.name,)}

    def count(self) -> int:
        """Return 1."""
        return 1

    def decode(self, params: Mapping[str, Any]) -> ArchSpec:
        """Return the architecture."""
        return self.spec

    def encode(self, spec: ArchSpec) -> dict[str, Any]:
        """Return the architecture's name as the only parameter."""
        return {"architecture": self.name}

    def parse(self, plain: Mapping[str, Any]) -> ArchSpec:
        """Return the architecture of its plain data."""
        return ArchSpec.from_dict(plain)

    def contains(self, spec: ArchSpec) -> bool:
        """Return whether this is the architecture."""
        return spec == self.spec

    def sample(self, rng: random.Random) -> ArchSpec:
        """Return the architecture."""
        return self.spec

    def mutate(self, spec: ArchSpec, rng: random.Random) -> ArchSpec:
        """Return the architecture, which has no neighbor."""
        return self.spec

    def crossover(self, a: ArchSpec, b: ArchSpec, rng: random.Random) -> ArchSpec:
        """Return the architecture."""
        return self.spec
