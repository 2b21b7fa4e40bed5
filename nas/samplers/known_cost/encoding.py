"""Encode parameters of any Optuna space as numbers in the unit cube, and draw and vary candidates."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Array = NDArray[np.float64]
Params = dict[str, Any]
Distributions = Mapping[str, BaseDistribution]

STEP_DEVIATION = 0.1  # of a mutated number, in units of its range


def encode(distributions: Distributions, candidates: Sequence[Mapping[str, Any]]) -> tuple[Array, NDArray[np.int64]]:
    """Return features (n, d) and the group of each (d,); the features of a parameter form a group.

    A number is one feature from 0 to 1, and so is a category whose choices are rising numbers. Any other category is
    one feature per choice; its choices are equally far apart.
    """
    columns: list[Array] = []
    groups: list[int] = []
    for group, (name, distribution) in enumerate(distributions.items()):
        values = [candidate[name] for candidate in candidates]
        if not isinstance(distribution, CategoricalDistribution):
            features = [np.array([to_unit(distribution, value) for value in values])]
        elif _rising(distribution):
            features = [_places(distribution, values) / max(len(distribution.choices) - 1, 1)]
        else:
            places = _places(distribution, values)
            features = [math.sqrt(0.5) * (places == i) for i in range(len(distribution.choices))]
        columns += features
        groups += [group] * len(features)
    return np.array(columns, dtype=float).reshape(len(columns), len(candidates)).T, np.array(groups, dtype=np.int64)


def _places(distribution: CategoricalDistribution, values: Sequence[Any]) -> NDArray[np.int64]:
    """Return the places of values among a category's choices, (n,)."""
    try:
        places = list(map(distribution.choices.index, values))  # what `to_internal_repr` does, without its overhead
    except ValueError:  # NaN, or none of the choices
        places = [int(distribution.to_internal_repr(value)) for value in values]
    return np.array(places, dtype=np.int64)


def log_sizes(distributions: Distributions, candidates: Sequence[Mapping[str, Any]]) -> Array:
    """Return the logarithms of all parameters that are positive numbers, (n, k), each from 0 to 1 over its range."""
    columns = []
    for name, distribution in distributions.items():
        low, high = _extremes(distribution)
        if 0 < low < high:
            logs = np.log(np.array([candidate[name] for candidate in candidates], dtype=float))
            columns.append((logs - math.log(low)) / (math.log(high) - math.log(low)))
    return np.array(columns, dtype=float).reshape(len(columns), len(candidates)).T


def to_unit(distribution: BaseDistribution, value: Any) -> float:
    """Return the place of a value in its range, 0 to 1; of a category its place among the choices."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.to_internal_repr(value) / max(len(distribution.choices) - 1, 1)
    low, high = _ends(distribution)
    if high == low:
        return 0.0
    return ((math.log(value) if _log(distribution) else value) - low) / (high - low)


def from_unit(distribution: BaseDistribution, unit: float) -> float | int:
    """Return the number nearest to a place in the range: the inverse of `to_unit` for all but categories."""
    low, high = _ends(distribution)
    value = low + min(max(unit, 0.0), 1.0) * (high - low)
    value = math.exp(value) if _log(distribution) else value
    first, last, step = distribution.low, distribution.high, distribution.step  # type: ignore[attr-defined]
    if step is not None:
        value = first + round((value - first) / step) * step
    value = min(max(value, first), last)
    return int(value) if isinstance(distribution, IntDistribution) else float(value)


def draw(distribution: BaseDistribution, rng: random.Random) -> Any:
    """Draw a value, all equally likely."""
    if isinstance(distribution, CategoricalDistribution):
        return rng.choice(distribution.choices)
    step = getattr(distribution, "step", None)
    if step is None or _log(distribution):
        return from_unit(distribution, rng.random())
    low, high = _ends(distribution)
    count = round((high - low) / step) + 1  # Optuna makes `high` a multiple of the step
    return from_unit(distribution, rng.randrange(count) / max(count - 1, 1))


def vary(
    distributions: Distributions, parents: Sequence[Mapping[str, Any]], count: int, rng: random.Random
) -> list[Params]:
    """Return `count` candidates: half of them new, half mutations of `parents` or of their crossovers."""
    candidates: list[Params] = []
    for i in range(count):
        if i % 2 or not parents:
            candidates.append({name: draw(distribution, rng) for name, distribution in distributions.items()})
            continue
        first, second = rng.choice(parents), rng.choice(parents)
        child = {name: (first if rng.random() < 0.7 else second)[name] for name in distributions}
        for name in rng.sample(list(distributions), min(rng.choice((1, 2)), len(distributions))):
            child[name] = _moved(distributions[name], child[name], rng)
        candidates.append(child)
    return candidates


def _moved(distribution: BaseDistribution, value: Any, rng: random.Random) -> Any:
    if isinstance(distribution, CategoricalDistribution) or rng.random() < 0.5:
        return draw(distribution, rng)
    return from_unit(distribution, to_unit(distribution, value) + rng.gauss(0.0, STEP_DEVIATION))


def _rising(distribution: CategoricalDistribution) -> bool:
    choices = distribution.choices
    numbers = all(isinstance(c, int | float) and not isinstance(c, bool) for c in choices)
    return numbers and list(choices) == sorted(choices)  # type: ignore[type-var]


def _extremes(distribution: BaseDistribution) -> tuple[float, float]:
    """Return the smallest and the largest value, both 0 for a category whose choices are not rising numbers."""
    if isinstance(distribution, FloatDistribution | IntDistribution):
        return float(distribution.low), float(distribution.high)
    if isinstance(distribution, CategoricalDistribution) and _rising(distribution):
        return float(distribution.choices[0]), float(distribution.choices[-1])  # type: ignore[arg-type]
    return 0.0, 0.0


def _log(distribution: BaseDistribution) -> bool:
    return isinstance(distribution, FloatDistribution | IntDistribution) and distribution.log


def _ends(distribution: BaseDistribution) -> tuple[float, float]:
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        raise TypeError(f"{distribution!r}: not a numerical distribution of Optuna")
    if distribution.log:
        return math.log(distribution.low), math.log(distribution.high)
    return float(distribution.low), float(distribution.high)
