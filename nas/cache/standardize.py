"""Standardize and compress a teacher's features: PHI-S on PCA, fitted on the calibration images.

y = H U^T (x - mean) / phi with phi = sqrt(trace(Sigma) / k): PCA rotation to k channels, Hadamard rotation, one scalar
(Ranzinger et al. 2024). It is no whitening: directions keep their relative strength, only spread over all channels.
`calibrate` fits every head, `Compressor` turns features into codes and back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from nas.cache.codecs import CODECS, Codes
from nas.cache.hadamard import Matrix, factors, spreading_rotation
from nas.cache.shards import Rows
from nas.files import atomic_path
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
class Standardizer:
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


def fit(principal: Spectrum, dims: int) -> Standardizer:
    """The standardizer to `dims` channels."""
    mean, values, vectors = principal
    kept = values[:dims].sum()
    phi = np.sqrt(kept / dims)
    rotation = spreading_rotation(dims) @ vectors[:, :dims].T
    return Standardizer(mean, rotation / phi, rotation.T * phi, float(kept / values.sum()))


HEADS = ("summary", "spatial")
FILE = "statistics.npz"


class Fitted(NamedTuple):
    """A head's standardizer, and the largest absolute target (k,) seen."""

    standardizer: Standardizer
    largest: NDArray[np.float32]


def calibrate(batches: Callable[[], Iterable[Rows]], share: float) -> dict[str, Fitted]:
    """Fit every head on raw features (N, C) or (N, C, g, g), read twice; memory stays at one batch.

    `share` is the part of the teacher's numbers that is kept, see `choose_dims`.
    """
    moments: dict[str, Moments] = {}
    cells: dict[str, int] = {}
    for batch in batches():
        for head, features in batch.items():
            cells[head] = int(np.prod(features.shape[2:]))
            moments.setdefault(head, Moments(features.shape[1])).update(vectors(features))
    spectra = {head: spectrum(of_head) for head, of_head in moments.items()}
    dims = choose_dims({head: found.values for head, found in spectra.items()}, cells, share)
    standardizers = {head: fit(found, dims[head]) for head, found in spectra.items()}
    largest = {head: np.zeros(k) for head, k in dims.items()}
    for batch in batches():
        for head, features in batch.items():
            targets = standardizers[head].apply(vectors(features))
            largest[head] = np.maximum(largest[head], np.abs(targets).max(0))
    return {head: Fitted(standardizers[head], largest[head].astype(np.float32)) for head in spectra}


def vectors(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, C) or (N, C, g, g) to (vectors, C)."""
    return np.moveaxis(features, 1, -1).reshape(-1, features.shape[1]).astype(np.float64)


def save_statistics(folder: Path, fitted: Mapping[str, Fitted]) -> None:
    """Write what `load_statistics` reads, whole or not at all."""
    arrays: Rows = {}
    for head, (standardizer, largest) in fitted.items():
        arrays |= {f"{head}-mean": standardizer.mean, f"{head}-forward": standardizer.forward.astype(np.float32)}
        arrays |= {f"{head}-kept": np.array(standardizer.kept), f"{head}-largest": largest}
    with atomic_path(folder / FILE) as unfinished, unfinished.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_statistics(folder: Path) -> dict[str, Fitted]:
    """Head -> what was fitted."""
    found = {}
    with np.load(folder / FILE, allow_pickle=False) as arrays:
        for head in HEADS:
            if f"{head}-mean" in arrays:
                mean, forward = arrays[f"{head}-mean"], arrays[f"{head}-forward"].astype(np.float64)
                # Rows of `forward` are orthogonal and of equal length: its inverse is its transpose, scaled.
                inverse = forward.T / (forward**2).sum(1).mean()
                standardizer = Standardizer(mean, forward, inverse, float(arrays[f"{head}-kept"]))
                found[head] = Fitted(standardizer, arrays[f"{head}-largest"])
    return found


class Compressed(NamedTuple):
    """Codes (N, k) or (N, k, g, g); how many were clipped; the sum over vectors of the cosine to the raw features."""

    codes: Codes
    clipped: int
    cosine: float


class Compressor:
    """Features (N, C) or (N, C, g, g) to codes in `storage`."""

    def __init__(self, fitted: Fitted, storage: str, device: torch.device) -> None:
        standardizer = fitted.standardizer
        self.mean, self.forward, self.inverse = (
            torch.from_numpy(matrix).to(device, torch.float32)
            for matrix in (standardizer.mean, standardizer.forward, standardizer.inverse)
        )
        self.codec = CODECS[storage](fitted.largest)

    def __call__(self, features: Tensor) -> Compressed:
        features = features.to(self.mean.device)
        targets = (features.movedim(1, -1) - self.mean) @ self.forward.T
        values = targets.movedim(-1, 1).contiguous().cpu().numpy()
        codes = self.codec.encode(values)
        cosine = F.cosine_similarity(self.restored(codes), features, dim=1).sum()
        return Compressed(codes, self.codec.clipped(values), float(cosine))

    def restored(self, codes: Codes) -> Tensor:
        """Features (N, C) or (N, C, g, g) of the codes."""
        values = torch.from_numpy(self.codec.decode(codes)).to(self.mean.device)
        return (values.movedim(1, -1) @ self.inverse.T + self.mean).movedim(-1, 1)


def to_grid(spatial: Tensor, grid: int) -> Tensor:
    """Maps (B, C, h, w) as (B, C, grid, grid): averaged over areas when larger, bilinear when smaller."""
    if spatial.shape[-1] >= grid:
        return F.adaptive_avg_pool2d(spatial, grid)
    return F.interpolate(spatial, (grid, grid), mode="bilinear")
