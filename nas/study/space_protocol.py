"""The protocol of a search space, which `search_space.Space` implements, and the variation of its architectures."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from nas.study.records import Expectation

MUTATION_RATE = 0.6  # share of the candidates that are mutations of parents
CROSSOVER_RATE = 0.3  # share of the mutations whose parent is a crossover of two


@runtime_checkable
class ExpectingSampler(Protocol):
    """A sampler that says what it expects of its proposals."""

    def expected(self, number: int) -> Expectation | None:
        """Return what it expects of its latest proposal, trial `number`; None where no model of the trials chose it."""


class Proposal(NamedTuple):
    """A new trial of a sampler: its number, its parameters, and what the sampler expects of it."""

    number: int
    params: dict[str, Any]
    expected: Expectation | None = None


class Architecture(Protocol):
    """An architecture of a search space."""

    @property
    def arch_id(self) -> str:
        """Return the identifier, which only equal architectures share."""

    def to_dict(self) -> dict[str, Any]:
        """Return the architecture as plain JSON data."""


class SearchSpace(Protocol):
    """A search space. Its architectures have a type of its own, and callers pass them only to its methods."""

    @property
    def name(self) -> str:
        """Return the name of the space."""

    def choices(self) -> Mapping[str, tuple[Any, ...]]:
        """Return the choices of every parameter."""

    def count(self) -> int:
        """Return the number of architectures."""

    def decode(self, params: Mapping[str, Any]) -> Any:
        """Return the architecture of a set of parameters."""

    def encode(self, spec: Any) -> dict[str, Any]:
        """Return the parameters of an architecture; the inverse of `decode`."""

    def parse(self, plain: Mapping[str, Any]) -> Any:
        """Return the architecture of its plain JSON data."""

    def contains(self, spec: Any) -> bool:
        """Return whether the space has the architecture."""

    def sample(self, rng: random.Random) -> Any:
        """Return a random architecture."""

    def mutate(self, spec: Any, rng: random.Random) -> Any:
        """Return an architecture with some parameters changed at random."""

    def crossover(self, a: Any, b: Any, rng: random.Random) -> Any:
        """Return an architecture with parameters of two others."""


def vary(space: SearchSpace, parents: Sequence[Any], count: int, rng: random.Random) -> list[Any]:
    """Return `count` architectures of the space: random ones, and mutations of the parents if there are any."""
    architectures = []
    for _ in range(count):
        if not parents or rng.random() > MUTATION_RATE:
            architectures.append(space.sample(rng))
            continue
        parent = rng.choice(parents)
        if rng.random() < CROSSOVER_RATE:
            parent = space.crossover(parent, rng.choice(parents), rng)
        architectures.append(space.mutate(parent, rng))
    return architectures
