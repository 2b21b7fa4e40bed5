"""A search space of one architecture: a training is a study of it, so that every command takes its folder."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas.study.config import SearchConfig
from search_space import ArchSpec, NetworkSpec, network_spec
from search_space.windows import padded_maps


def padding_line(spec: NetworkSpec, config: SearchConfig) -> str:
    """Return a line about stages whose maps their windows do not tile; "" where there are none.

    Args:
        spec: The architecture.
        config: Settings of its training.
    """
    if not isinstance(spec, ArchSpec):
        return ""
    sizes = sorted({config.distill.img_size, *(px for group in config.distill.groups for px in group.img_size)})
    padded = {what: times for px in sizes for what, times in padded_maps(spec, px).items()}
    if not padded:
        return ""
    return (
        f"windows do not tile these maps, which are padded in every step: {', '.join(padded)}; attention there runs on"
        f" up to {max(padded.values()):.2g} times the tokens"
    )


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
