"""Standardize and compress a teacher's features with PCA and PHI-S (Ranzinger et al. 2024).

A target is y = H U^T (x - mean) / phi. U^T is the PCA rotation to k channels, H a Hadamard matrix / sqrt(k), and
phi = sqrt(trace(Sigma) / k), where Sigma is the covariance of the k channels. Every channel of y has variance 1. Unlike
whitening, PHI-S scales all directions by the same factor.

`calibrate` fits each head of a teacher on the calibration images; `Compressor` translates features to codes and back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from nas.cache.codecs import CODECS, Codes
from nas.cache.entry import damage
from nas.cache.hadamard import Matrix, factors, spreading_rotation
from nas.cache.shards import Rows
from nas.files import atomic_path
from nas.study.config import TARGET_SHARE, SearchConfig
from nas.study.teacher_names import TeacherError

WHOLE_SUMMARY = 0.1  # share of a teacher's kept numbers up to which its summary keeps every direction
NEGLIGIBLE_EIGENVALUE = 1e-9  # share of the largest eigenvalue below which others are rounding errors


class Moments:
    """Accumulates count, mean (C,) and scatter (C, C) in float64. The batch size changes them by rounding only."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = np.zeros(channels)
        self.scatter = np.zeros((channels, channels))

    def update(self, rows: NDArray[Any]) -> None:
        """Add rows (N, C). Centered sums are merged (Chan et al. 1979), so a large mean costs no precision."""
        batch = np.asarray(rows, dtype=np.float64)
        mean = batch.mean(0)
        centered = batch - mean
        delta, total = mean - self.mean, self.count + len(batch)
        self.scatter += centered.T @ centered + np.outer(delta, delta) * (self.count * len(batch) / total)
        self.mean = self.mean + delta * (len(batch) / total)
        self.count = total

    @property
    def covariance(self) -> Matrix:
        """Return the population covariance (C, C)."""
        return self.scatter / max(self.count, 1)


@dataclass(frozen=True)
class Standardizer:
    """An affine map from features of C channels to targets of k channels, and back.

    Args:
        mean: (C,), subtracted first.
        forward: (k, C).
        inverse: (C, k).
        kept: Share of the features' variance in the k channels.
    """

    mean: Matrix
    forward: Matrix
    inverse: Matrix
    kept: float

    @property
    def dims(self) -> int:
        """Return k."""
        return len(self.forward)

    def apply(self, features: NDArray[Any]) -> Matrix:
        """Map features (..., C) to targets (..., k)."""
        targets: Matrix = (features - self.mean) @ self.forward.T
        return targets

    def invert(self, targets: NDArray[Any]) -> Matrix:
        """Map targets (..., k) to features (..., C), exactly in the kept directions."""
        features: Matrix = targets @ self.inverse.T + self.mean
        return features


class Spectrum(NamedTuple):
    """Principal directions of features: mean (C,), falling eigenvalues (C,), eigenvectors (C, C) as columns."""

    mean: Matrix
    values: Matrix
    vectors: Matrix


def spectrum(moments: Moments) -> Spectrum:
    """Compute the principal directions, with fixed signs; TeacherError if the features are constant."""
    values, vectors = np.linalg.eigh(moments.covariance)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    if not np.isfinite(values).all() or values[0] <= 0:
        raise TeacherError("teacher features do not vary over the training images, so there is nothing to distill")
    # An eigenvector's sign is arbitrary; make its largest entry positive.
    largest = vectors[np.abs(vectors).argmax(0), np.arange(len(values))]
    return Spectrum(moments.mean, values, vectors * np.sign(largest))


def keeps_whole_summary(widths: tuple[int, int], cells: int, share: float) -> bool:
    """Tell whether PCA leaves a summary as it is: where this takes at most a tenth of the kept numbers.

    PCA of a summary of 1,280 channels needs more images than that of a map, whose every cell is an example: of the
    built-in teacher's summary, the directions with 74 % of the variance on 2,048 images have 63 % on others.

    Args:
        widths: Channels of the summary (0: none) and of the map.
        cells: Cells of the map.
        share: Between 0 and 1.
    """
    summary, spatial = widths
    return share < 1 and 0 < summary <= WHOLE_SUMMARY * share * (summary + cells * spatial)


def target_channels(widths: tuple[int, int], cells: int, share: float) -> tuple[int, int]:
    """Return about how many channels the targets of a teacher's (summary, map) have; `choose_dims` chooses them.

    Args:
        widths: Channels of the summary (0: none) and of the map.
        cells: Cells of the map.
        share: Between 0 and 1.
    """
    summary, spatial = widths
    whole = keeps_whole_summary(widths, cells, share)
    kept = summary if whole else max(1, round(share * summary)) if summary else 0
    return kept, max(1, round(share * spatial))


def channels_of_targets(widths: Mapping[str, tuple[int, int]], config: SearchConfig) -> dict[str, tuple[int, int]]:
    """Return the `target_channels` of each teacher in the cache of a search.

    Args:
        widths: Channels of each teacher's (summary, spatial) outputs.
        config: Settings of the search.
    """
    return {name: target_channels(each, config.grid**2, TARGET_SHARE) for name, each in widths.items()}


def choose_dims(
    values: Mapping[str, Matrix], cells: Mapping[str, int], share: float, few: Collection[str] = ()
) -> dict[str, int]:
    """Choose the channels k of each head, so that the heads together keep at most `share` of a teacher's numbers.

    All heads keep the same share of their variance, the largest that fits, with a k that has a Hadamard matrix; but see
    `keeps_whole_summary`. With share 1, k is the number of directions that vary. A head that keeps all of its
    directions keeps those too that too `few` vectors do not show: n vectors vary in n - 1 directions at most.

    Args:
        values: Each head's falling eigenvalues.
        cells: Each head's vectors per image.
        share: Between 0 and 1.
        few: Heads with no more vectors than channels.
    """
    widths = (len(values.get("summary", ())), len(values["spatial"]))
    whole = keeps_whole_summary(widths, cells["spatial"], share)
    ranks = {
        head: len(eigenvalues)
        if head in few and (share >= 1 or (whole and head == "summary"))
        else int((eigenvalues > NEGLIGIBLE_EIGENVALUE * eigenvalues[0]).sum())
        for head, eigenvalues in values.items()
    }
    budget = share * sum(cells[head] * len(eigenvalues) for head, eigenvalues in values.items())
    if share >= 1:
        return ranks
    kept = {head: np.cumsum(eigenvalues) / eigenvalues.sum() for head, eigenvalues in values.items()}
    orders = {head: [k for k in range(1, rank + 1) if factors(k) is not None] for head, rank in ranks.items()}
    if whole:
        orders["summary"] = orders["summary"][-1:]
    best = {head: fitting[0] for head, fitting in orders.items()}
    for min_kept in sorted(float(kept[head][k - 1]) for head, fitting in orders.items() for k in fitting):
        dims = {
            head: next((k for k in fitting if kept[head][k - 1] >= min_kept), fitting[-1])
            for head, fitting in orders.items()
        }
        if sum(cells[head] * k for head, k in dims.items()) > budget:
            break
        best = dims
    return best


def fit(principal: Spectrum, dims: int) -> Standardizer:
    """Return the PHI-S standardizer to `dims` channels."""
    mean, values, vectors = principal
    kept = values[:dims].sum()
    phi = np.sqrt(kept / dims)
    rotation = spreading_rotation(dims) @ vectors[:, :dims].T
    return Standardizer(mean, rotation / phi, rotation.T * phi, float(kept / values.sum()))


HEADS = ("summary", "spatial")
STATISTICS_FILE = "statistics.npz"


class HeadStatistics(NamedTuple):
    """A head's standardizer, and the largest absolute target of each channel (k,) on the calibration images."""

    standardizer: Standardizer
    largest: NDArray[np.float32]


def calibrate(batches: Callable[[], Iterable[Rows]], share: float) -> dict[str, HeadStatistics]:
    """Fit every head of a teacher, with one batch in memory at a time.

    Args:
        batches: Returns an iterator over raw features by head, (N, C) or (N, C, g, g). Called twice.
        share: Share of the teacher's numbers to keep, see `choose_dims`.
    """
    moments: dict[str, Moments] = {}
    cells: dict[str, int] = {}
    for batch in batches():
        for head, features in batch.items():
            cells[head] = int(np.prod(features.shape[2:]))
            moments.setdefault(head, Moments(features.shape[1])).update(as_vectors(features))
    spectra = {head: spectrum(accumulated) for head, accumulated in moments.items()}
    few = [head for head, accumulated in moments.items() if accumulated.count <= len(accumulated.mean)]
    dims = choose_dims({head: principal.values for head, principal in spectra.items()}, cells, share, few)
    standardizers = {head: fit(principal, dims[head]) for head, principal in spectra.items()}
    largest = {head: np.zeros(k) for head, k in dims.items()}
    for batch in batches():
        for head, features in batch.items():
            targets = standardizers[head].apply(as_vectors(features))
            largest[head] = np.maximum(largest[head], np.abs(targets).max(0))
    return {head: HeadStatistics(standardizers[head], largest[head].astype(np.float32)) for head in spectra}


def as_vectors(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Reshape features (N, C) or (N, C, g, g) to (vectors, C) in float64."""
    return np.moveaxis(features, 1, -1).reshape(-1, features.shape[1]).astype(np.float64)


def save_statistics(folder: Path, fitted: Mapping[str, HeadStatistics]) -> None:
    """Write the statistics of a teacher's heads to a folder, atomically."""
    arrays: Rows = {}
    for head, (standardizer, largest) in fitted.items():
        arrays |= {f"{head}-mean": standardizer.mean, f"{head}-forward": standardizer.forward.astype(np.float32)}
        arrays |= {f"{head}-kept": np.array(standardizer.kept), f"{head}-largest": largest}
    with atomic_path(folder / STATISTICS_FILE, sync=True) as unfinished, unfinished.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_statistics(folder: Path) -> dict[str, HeadStatistics]:
    """Read the statistics of a teacher's heads from a folder; CacheError if they are damaged."""
    path = folder / STATISTICS_FILE
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {head: _head_statistics(arrays, head) for head in HEADS if f"{head}-mean" in arrays}
    except OSError:
        raise
    except Exception as error:  # a damaged zip file raises errors of many types
        raise damage(path, "no readable file of statistics") from error


def _head_statistics(arrays: Mapping[str, NDArray[Any]], head: str) -> HeadStatistics:
    mean, forward = arrays[f"{head}-mean"], arrays[f"{head}-forward"].astype(np.float64)
    # The rows of `forward` are orthogonal and of equal length, so its inverse is its scaled transpose.
    inverse = forward.T / (forward**2).sum(1).mean()
    standardizer = Standardizer(mean, forward, inverse, float(arrays[f"{head}-kept"]))
    return HeadStatistics(standardizer, arrays[f"{head}-largest"])


class Compressed(NamedTuple):
    """Compressed features of a batch.

    Args:
        codes: (N, k) or (N, k, g, g).
        clipped: Number of clipped values.
        cosine: Sum over vectors of the cosine of decompressed to raw features.
    """

    codes: Codes
    clipped: int
    cosine: float


class StandardizerOnDevice:
    """A standardizer of features (N, C) or (N, C, g, g) on a device."""

    def __init__(self, standardizer: Standardizer, device: torch.device) -> None:
        self.mean = torch.from_numpy(standardizer.mean).to(device, torch.float32)
        self.forward = torch.from_numpy(standardizer.forward).to(device, torch.float32)

    def apply(self, features: Tensor) -> Tensor:
        """Return the targets, (N, k) or (N, k, g, g)."""
        return ((features.movedim(1, -1) - self.mean) @ self.forward.T).movedim(-1, 1).contiguous()


class Compressor(StandardizerOnDevice):
    """Compresses features of one head to codes, and decompresses codes."""

    def __init__(self, fitted: HeadStatistics, storage: str, device: torch.device) -> None:
        super().__init__(fitted.standardizer, device)
        self.inverse = torch.from_numpy(fitted.standardizer.inverse).to(device, torch.float32)
        self.codec = CODECS[storage](fitted.largest)

    def __call__(self, features: Tensor) -> Compressed:
        """Compress the features of a batch."""
        features = features.to(self.mean.device)
        values = self.apply(features).cpu().numpy()
        codes = self.codec.encode(values)
        cosine = F.cosine_similarity(self.decompress(codes), features, dim=1).sum()
        return Compressed(codes, self.codec.clipped(values), float(cosine))

    def decompress(self, codes: Codes) -> Tensor:
        """Return the features (N, C) or (N, C, g, g) of codes."""
        values = torch.from_numpy(self.codec.decode(codes)).to(self.mean.device)
        return (values.movedim(1, -1) @ self.inverse.T + self.mean).movedim(-1, 1)
