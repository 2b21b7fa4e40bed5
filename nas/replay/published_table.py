"""A table of published results: a search space, and the accuracies and the cost of each of its architectures."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nas.study.space_protocol import SearchSpace
from nas.validation import ConfigError
from search_space import SpecError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ProductSpace:
    """All architectures that have one of the same options at each position, with the methods of `search_space.Space`.

    Attributes:
        name: Name of the space.
        positions: Names of the positions.
        options: The options.
        of: Makes the architecture of the options at all positions.
        options_of: Returns the options of an architecture.
        read: Makes the architecture of its plain JSON data.
    """

    name: str
    positions: tuple[str, ...]
    options: tuple[str, ...]
    of: Callable[[tuple[str, ...]], Any]
    options_of: Callable[[Any], tuple[str, ...]]
    read: Callable[[Mapping[str, Any]], Any]

    @cached_property
    def architectures(self) -> dict[Any, None]:
        """Return the different architectures, in the order of their options."""
        return dict.fromkeys(map(self.of, product(self.options, repeat=len(self.positions))))

    def choices(self) -> dict[str, tuple[str, ...]]:
        """Return the choices of each parameter."""
        return dict.fromkeys(self.positions, self.options)

    def count(self) -> int:
        """Return the number of different architectures."""
        return len(self.architectures)

    def decode(self, params: Mapping[str, Any]) -> Any:
        """Return the architecture that `params` describe.

        Raises:
            SpecError: An option is missing or unknown.
        """
        for position in self.positions:
            if params.get(position) not in self.options:
                raise SpecError(f"{position}: {params.get(position)!r}: choose one of {', '.join(self.options)}")
        return self.of(tuple(params[position] for position in self.positions))

    def encode(self, spec: Any) -> dict[str, str]:
        """Return the parameters of an architecture."""
        return dict(zip(self.positions, self.options_of(spec), strict=True))

    def parse(self, plain: Mapping[str, Any]) -> Any:
        """Return the architecture of plain JSON data."""
        return self.read(plain)

    def contains(self, spec: Any) -> bool:
        """Return whether `spec` is one of the architectures."""
        return spec in self.architectures

    def sample(self, rng: random.Random) -> Any:
        """Return the architecture of random options."""
        return self.of(tuple(rng.choice(self.options) for _ in self.positions))

    def mutate(self, spec: Any, rng: random.Random) -> Any:
        """Return a different architecture: other options at one or two positions."""
        while True:
            options = list(self.options_of(spec))
            for position in rng.sample(range(len(options)), rng.choice((1, 2))):
                options[position] = rng.choice([option for option in self.options if option != options[position]])
            if (mutant := self.of(tuple(options))) != spec:
                return mutant

    def crossover(self, a: Any, b: Any, rng: random.Random) -> Any:
        """Return the architecture that has each option from a random parent."""
        return self.of(tuple(rng.choice(pair) for pair in zip(self.options_of(a), self.options_of(b), strict=True)))


@dataclass(frozen=True, eq=False)
class PublishedTable:
    """Published results of every architecture. Row i of each array belongs to `architectures[i]`.

    Attributes:
        bench: Name of the benchmark.
        dataset: Data set of the accuracies.
        space: The search space.
        architectures: All architectures.
        trainings: Accuracies in %, one column a training that an evaluation may draw, (n, k); NaN: there is none.
        train_s: Seconds of a full training.
        costs: Costs, which are minimized.
        cost: Name of the cost: "latency" or "macs".
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
    cost: str
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
