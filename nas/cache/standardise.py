"""PHI-S on PCA: teacher features brought to few channels of mean 0 and variance 1 by an invertible linear map.

y = H U^T (x - mean) / phi with phi = sqrt(trace(Sigma) / k): PCA rotation to k channels, Hadamard rotation, one scalar
(Ranzinger et al. 2024). It is no whitening: directions keep their relative strength, only spread over all channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nas.cache.hadamard import Matrix, factors, spreading_rotation
from nas.teachers.base import TeacherError

NEGLIGIBLE = 1e-9  # eigenvalues below this share of the largest are rounding


class Moments:
    """Streamed count, mean (C,) and scatter (C, C) in float64: the same for any batch size, to rounding."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = np.zeros(channels)
        self.scatter = np.zeros((channels, channels))

    def update(self, rows: NDArray[Any]) -> None:
        """Add rows (N, C). Merges centred sums (Chan et al. 1979), so a large mean costs no precision."""
        batch = np.asarray(rows, dtype=np.float64)
        mean = batch.mean(0)
        centred = batch - mean
        delta, total = mean - self.mean, self.count + len(batch)
        self.scatter += centred.T @ centred + np.outer(delta, delta) * (self.count * len(batch) / total)
        self.mean = self.mean + delta * (len(batch) / total)
        self.count = total

    @property
    def covariance(self) -> Matrix:
        """Population covariance (C, C)."""
        return self.scatter / max(self.count, 1)


@dataclass(frozen=True)
class Standardiser:
    """forward (k, C), inverse (C, k), mean (C,); `kept` is the share of variance the k directions hold."""

    mean: Matrix
    forward: Matrix
    inverse: Matrix
    kept: float

    @property
    def dims(self) -> int:
        """k."""
        return len(self.forward)

    def apply(self, features: NDArray[Any]) -> Matrix:
        """Features (..., C) to targets (..., k)."""
        targets: Matrix = (features - self.mean) @ self.forward.T
        return targets

    def invert(self, targets: NDArray[Any]) -> Matrix:
        """Targets (..., k) to features (..., C): exact on the kept directions."""
        features: Matrix = targets @ self.inverse.T + self.mean
        return features


class Spectrum(NamedTuple):
    """Mean (C,), eigenvalues (C,), falling, and eigenvectors (C, C), as columns, of features."""

    mean: Matrix
    values: Matrix
    vectors: Matrix


def spectrum(moments: Moments) -> Spectrum:
    """Principal directions of the covariance, signs fixed; TeacherError if nothing varies."""
    values, vectors = np.linalg.eigh(moments.covariance)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    if not np.isfinite(values).all() or values[0] <= 0:
        raise TeacherError("teacher features do not vary over the training images: nothing to distil")
    # An eigenvector's sign is arbitrary: its largest entry is made positive.
    largest = vectors[np.abs(vectors).argmax(0), np.arange(len(values))]
    return Spectrum(moments.mean, values, vectors * np.sign(largest))


def choose_dims(values: Mapping[str, Matrix], cells: Mapping[str, int], share: float) -> dict[str, int]:
    """Channels k of each head, so that a teacher's heads together keep at most `share` of its numbers.

    `values` are a head's eigenvalues, falling, `cells` its vectors an image. All heads keep the same share of their
    variance, as much as fits, in a k that has a Hadamard matrix. With share 1, all directions that vary.
    """
    ranks = {head: int((of_head > NEGLIGIBLE * of_head[0]).sum()) for head, of_head in values.items()}
    budget = share * sum(cells[head] * len(of_head) for head, of_head in values.items())
    if share >= 1:
        return ranks
    kept = {head: np.cumsum(of_head) / of_head.sum() for head, of_head in values.items()}
    orders = {head: [k for k in range(1, rank + 1) if factors(k) is not None] for head, rank in ranks.items()}
    best = dict.fromkeys(values, 1)
    for least in sorted(float(kept[head][k - 1]) for head in values for k in orders[head]):
        dims = {
            head: next((k for k in orders[head] if kept[head][k - 1] >= least), orders[head][-1]) for head in values
        }
        if sum(cells[head] * k for head, k in dims.items()) > budget:
            break
        best = dims
    return best


def fit(principal: Spectrum, dims: int) -> Standardiser:
    """The standardiser to `dims` channels."""
    mean, values, vectors = principal
    kept = values[:dims].sum()
    phi = np.sqrt(kept / dims)
    rotation = spreading_rotation(dims) @ vectors[:, :dims].T
    return Standardiser(mean, rotation / phi, rotation.T * phi, float(kept / values.sum()))
