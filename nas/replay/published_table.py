"""A table of published results: a search space, and the accuracies and the cost of each of its architectures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nas.study.space_protocol import SearchSpace
from nas.validation import ConfigError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PublishedTable:
    """Published results of every architecture. Row i of each array belongs to `architectures[i]`.

    Attributes:
        bench: Name of the benchmark.
        dataset: Data set of the accuracies.
        space: The search space.
        architectures: All architectures.
        trainings: Accuracies in %, one column a training, (n, k); NaN: there is none.
        train_s: Seconds of a full training.
        costs: Costs, which are minimized.
        cost_label: Label of the costs, as the name of a device.
        cost_unit: Unit of the costs.
        reference_accuracy: Accuracy in % of the hypervolume's reference point.
        sources: Features of the architectures by source, (n, k) each.
        sizes: Logarithms of the architectures' sizes, (n, k).
    """

    bench: str
    dataset: str
    space: SearchSpace
    architectures: Sequence[Any]
    trainings: Array
    train_s: Array
    params: Array
    costs: Array
    cost_label: str
    cost_unit: str
    reference_accuracy: float
    sources: Mapping[str, Callable[[], Array]]
    sizes: Callable[[], Array]

    @cached_property
    def accuracy(self) -> Array:
        """Return the mean accuracy of each architecture over its trainings."""
        mean: Array = np.nanmean(self.trainings, axis=1)
        return mean

    @cached_property
    def positions(self) -> dict[str, int]:
        """Return the row of each architecture by its `arch_id`."""
        return {architecture.arch_id: i for i, architecture in enumerate(self.architectures)}

    @property
    def reference(self) -> tuple[float, float]:
        """Return the hypervolume's reference point: an accuracy in %, and the largest cost."""
        return self.reference_accuracy, float(self.costs.max())

    def features(self, sources: Sequence[str]) -> Array:
        """Return the features of each architecture from some sources, standardized, (n, k).

        Raises:
            ConfigError: The table does not have a source, or its file lacks an architecture.
        """
        for source in sources:
            if source not in self.sources:
                raise ConfigError(f"--knowledge: {self.bench} has no {source!r}; choose of {', '.join(self.sources)}")
        columns = [self.sources[source]() for source in sources]
        return standardized(np.hstack(columns)) if columns else np.empty((len(self.architectures), 0))


def standardized(columns: Array) -> Array:
    """Scale each column to mean 0 and variance 1. Constant columns become 0."""
    deviations = columns.std(axis=0)
    scaled: Array = (columns - columns.mean(axis=0)) / np.where(deviations > 0, deviations, 1.0)
    return scaled


def read_csv(flag: str, path: str, expected: str) -> pd.DataFrame:
    """Return a CSV file's rows, indexed by its column `arch`, which is text.

    Raises:
        ConfigError: There is no such file, or it is no CSV with this column.
    """
    if not Path(path).is_file():
        raise ConfigError(f"{flag}: no such file: {path!r}; expected {expected}")
    try:
        rows = pd.read_csv(path, dtype={"arch": str})
    except (ValueError, OSError) as error:
        raise ConfigError(f"{flag}: {path} is not a readable CSV: {error}") from error
    if "arch" not in rows:
        raise ConfigError(f"{flag}: {path} has no column 'arch'")
    return rows.drop_duplicates("arch").set_index("arch")


def column(flag: str, path: str, rows: pd.DataFrame, name: str, arch_ids: Sequence[str]) -> Array:
    """Return a column of positive numbers, one for each architecture.

    Raises:
        ConfigError: There is no such column, or it lacks an architecture.
    """
    if name not in rows:
        raise ConfigError(f"{flag}: {path} has no column {name!r}; it has: {', '.join(rows)}")
    numbers: Array = pd.to_numeric(rows[name], errors="coerce").reindex(arch_ids).to_numpy(dtype=float)
    valid = np.isfinite(numbers) & (numbers > 0)
    if not valid.all():
        missing = arch_ids[int(np.argmin(valid))]
        raise ConfigError(f"{flag}: {path}: column {name!r} has no positive number for {missing}")
    return numbers
