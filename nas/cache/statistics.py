"""What is known of a teacher's features from the calibration images: how to standardise them, and what int8 spans."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nas.cache.arrays import Rows
from nas.cache.standardise import Moments, Standardiser, choose_dims, fit, spectrum
from nas.files import atomic_path

HEADS = ("summary", "spatial")
FILE = "statistics.npz"


class Fitted(NamedTuple):
    """A head's standardiser, and the largest absolute target (k,) seen."""

    standardiser: Standardiser
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
    standardisers = {head: fit(found, dims[head]) for head, found in spectra.items()}
    largest = {head: np.zeros(k) for head, k in dims.items()}
    for batch in batches():
        for head, features in batch.items():
            targets = standardisers[head].apply(vectors(features))
            largest[head] = np.maximum(largest[head], np.abs(targets).max(0))
    return {head: Fitted(standardisers[head], largest[head].astype(np.float32)) for head in spectra}


def vectors(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, C) or (N, C, g, g) to (vectors, C)."""
    return np.moveaxis(features, 1, -1).reshape(-1, features.shape[1]).astype(np.float64)


def save_statistics(folder: Path, fitted: Mapping[str, Fitted]) -> None:
    """Write what `load_statistics` reads, whole or not at all."""
    arrays: Rows = {}
    for head, (standardiser, largest) in fitted.items():
        arrays |= {f"{head}-mean": standardiser.mean, f"{head}-forward": standardiser.forward.astype(np.float32)}
        arrays |= {f"{head}-kept": np.array(standardiser.kept), f"{head}-largest": largest}
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
                standardiser = Standardiser(mean, forward, inverse, float(arrays[f"{head}-kept"]))
                found[head] = Fitted(standardiser, arrays[f"{head}-largest"])
    return found
