"""What a search asks of a space of architectures; `search_space.Space` is one."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

MUTATED, CROSSED = 0.6, 0.3  # of `vary`: varied from parents; of these: crossed first


class Architecture(Protocol):
    """One architecture."""

    @property
    def arch_id(self) -> str:
        """The same for equal architectures alone."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""


class Architectures(Protocol):
    """A space; its architectures are only ever given back to it."""

    @property
    def name(self) -> str: ...

    def choices(self) -> Mapping[str, tuple[Any, ...]]: ...

    def count(self) -> int: ...

    def decode(self, params: Mapping[str, Any]) -> Any: ...

    def encode(self, spec: Any) -> dict[str, Any]: ...

    def parse(self, plain: Mapping[str, Any]) -> Any: ...

    def contains(self, spec: Any) -> bool: ...

    def sample(self, rng: random.Random) -> Any: ...

    def mutate(self, spec: Any, rng: random.Random) -> Any: ...

    def crossover(self, a: Any, b: Any, rng: random.Random) -> Any: ...


def vary(space: Architectures, parents: Sequence[Any], count: int, rng: random.Random) -> list[Any]:
    """Architectures by the rules of the space: new ones, and where there are parents mutations of these."""
    made = []
    for _ in range(count):
        if not parents or rng.random() > MUTATED:
            made.append(space.sample(rng))
            continue
        parent = rng.choice(parents)
        if rng.random() < CROSSED:
            parent = space.crossover(parent, rng.choice(parents), rng)
        made.append(space.mutate(parent, rng))
    return made
