"""The cells of NAS-Bench-201 as a search space: four nodes, an operation on each of the six edges between them.

Source: NAS-Bench-201 (Dong and Yang, 2020).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Self

from search_space.checks import SpecError

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ("edge0_1", "edge0_2", "edge1_2", "edge0_3", "edge1_3", "edge2_3")  # in the order of the published names
PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))  # from the first node to the last, as places in EDGES
CONVOLUTIONS = ("nor_conv_1x1", "nor_conv_3x3")


@dataclass(frozen=True)
class Cell:
    """One cell, by the operation on each edge."""

    operations: tuple[str, ...]

    @property
    def arch_id(self) -> str:
        """The published name, as ``|skip_connect~0|+|none~0|skip_connect~1|+|...``."""
        a, b, c, d, e, f = self.operations
        return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {"cell": self.arch_id}

    @classmethod
    def of(cls, arch_id: str) -> Self:
        """Inverse of `arch_id`."""
        return cls(tuple(part.partition("~")[0] for part in arch_id.replace("+", "").split("|") if part))

    @property
    def live(self) -> tuple[str, ...]:
        """The operations, "none" on edges that no path to the output uses: equal where the same is computed."""
        used = {edge for path in self._paths() for edge in path}
        return tuple(kind if edge in used else "none" for edge, kind in enumerate(self.operations))

    def _paths(self) -> list[tuple[int, ...]]:
        return [path for path in PATHS if all(self.operations[edge] != "none" for edge in path)]

    def structure(self) -> tuple[float, ...]:
        """What the cell computes, as numbers: edges that no path to the output uses don't count.

        Of the live edges, how many have each operation; live paths; most, fewest and mean convolutions on one of them;
        most 3x3 convolutions; fewest poolings.
        """
        live = self._paths()
        counts = [self.live.count(kind) for kind in OPERATIONS[1:]]
        on = [[self.operations[edge] for edge in path] for path in live] or [[]]
        convolutions = [sum(kind in CONVOLUTIONS for kind in path) for path in on]
        return (
            *map(float, counts),
            float(len(live)),
            float(max(convolutions)),
            float(min(convolutions)),
            sum(convolutions) / len(on),
            float(max(path.count("nor_conv_3x3") for path in on)),
            float(min(path.count("avg_pool_3x3") for path in on)),
        )


@dataclass(frozen=True)
class CellSpace:
    """All 15,625 cells; the same methods as `search_space.Space`."""

    name: str = "nasbench201"

    def choices(self) -> dict[str, tuple[str, ...]]:
        """Parameter name -> its choices."""
        return dict.fromkeys(EDGES, OPERATIONS)

    def count(self) -> int:
        """Number of cells, equivalent ones counted apart."""
        return int(len(OPERATIONS) ** len(EDGES))

    def all(self) -> list[Cell]:
        """Every cell, in the order of its operations."""
        return [Cell(operations) for operations in product(OPERATIONS, repeat=len(EDGES))]

    def decode(self, params: Mapping[str, Any]) -> Cell:
        """The cell that `params` describe. Raises SpecError for what is no cell."""
        found = tuple(params.get(edge) for edge in EDGES)
        for edge, operation in zip(EDGES, found, strict=True):
            if operation not in OPERATIONS:
                raise SpecError(f"{edge}: {operation!r}: choose one of {', '.join(OPERATIONS)}")
        return Cell(found)  # type: ignore[arg-type]

    def encode(self, spec: Cell) -> dict[str, str]:
        """Inverse of `decode`."""
        return dict(zip(EDGES, spec.operations, strict=True))

    def parse(self, plain: Mapping[str, Any]) -> Cell:
        """Inverse of `Cell.to_dict`."""
        return Cell.of(plain["cell"])

    def contains(self, spec: Any) -> bool:
        """Whether it is a cell at all."""
        return isinstance(spec, Cell)

    def sample(self, rng: random.Random) -> Cell:
        """Any cell, all equally likely."""
        return Cell(tuple(rng.choice(OPERATIONS) for _ in EDGES))

    def mutate(self, spec: Cell, rng: random.Random) -> Cell:
        """Another operation on one edge or two."""
        operations = list(spec.operations)
        for edge in rng.sample(range(len(EDGES)), rng.choice((1, 2))):
            operations[edge] = rng.choice([kind for kind in OPERATIONS if kind != operations[edge]])
        return Cell(tuple(operations))

    def crossover(self, a: Cell, b: Cell, rng: random.Random) -> Cell:
        """Each edge's operation from either parent."""
        return Cell(tuple(rng.choice(pair) for pair in zip(a.operations, b.operations, strict=True)))
