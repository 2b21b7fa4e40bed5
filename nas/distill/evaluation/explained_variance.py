"""How much of the teachers a student explains on held-out images."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas.cache.arrays import Array
from nas.cache.targets import SplitTargets
from nas.distill.heads import normalise
from nas.distill.losses import array_of

ROWS = 256  # read at a time
_variances: dict[int, float] = {}  # id of an array that lives -> its total variance


def predict(
    student: nn.Module, split: SplitTargets, device: str | torch.device, batch: int = 100, images: int | None = None
) -> Iterator[tuple[slice, Any]]:
    """Runs `student` over the first `images` of a split, or all: yields (rows, its output on them), no gradients."""
    count = len(split.images) if images is None else min(images, len(split.images))
    with torch.inference_mode():
        for rows in batches(count, batch):
            yield rows, student(normalise(read(split.images, rows).to(device)))


def explained_variance(
    student: nn.Module, split: SplitTargets, device: str | torch.device
) -> dict[str, dict[str, float]]:
    """teacher -> head -> 1 - (squared error) / (variance of the teacher's targets), over the whole split.

    1 is a perfect copy, 0 is as good as the constant mean, negative is worse. The same for any rotation and
    common scale of the targets, so PHI-S and a global standardisation give the same number. ValueError where a
    teacher says the same of all images.
    """
    error: dict[tuple[str, str], float] = defaultdict(float)
    for rows, predictions in predict(student, split, device):
        for teacher, heads in predictions.items():
            for head, prediction in heads.items():
                truth = read(array_of(split, f"{teacher}/{head}"), rows).float().to(prediction.device)
                error[teacher, head] += float(((prediction.float() - truth) ** 2).sum())
    scores: dict[str, dict[str, float]] = defaultdict(dict)
    for (teacher, head), squared in error.items():
        variance = total_variance(array_of(split, f"{teacher}/{head}"))
        if variance == 0:
            raise ValueError(f"{teacher}/{head} is the same on all held-out images: no variance to explain")
        scores[teacher][head] = 1.0 - squared / variance
    return dict(scores)


def total_variance(array: Array) -> float:
    """Sum of squared distances of all targets (N, k, ...) from their mean over images and positions.

    Read in pieces, and once in the life of the array: every rung of every trial asks for the same.
    """
    key = id(array)
    if key not in _variances:
        _variances[key] = _scatter(array)
        weakref.finalize(array, _variances.pop, key, None)  # another array may get the same id
    return _variances[key]


def _scatter(array: Array) -> float:
    """Merges centred sums of pieces (Chan et al. 1979): no difference of large numbers, whatever the mean."""
    count, mean, scatter = 0, np.zeros(array.shape[1]), 0.0
    for rows in batches(len(array), ROWS):
        values = np.moveaxis(np.asarray(array[rows], dtype=np.float64), 1, -1).reshape(-1, len(mean))
        there = values.mean(0)
        shift, total = there - mean, count + len(values)
        scatter += float(((values - there) ** 2).sum() + (shift**2).sum() * count * len(values) / total)
        mean += shift * len(values) / total
        count = total
    return scatter


def batches(count: int, size: int) -> Iterator[slice]:
    """0 to `count` in slices of `size`, the last one shorter."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def read(array: Array, rows: slice) -> Tensor:
    """Some rows of a stored array, as a tensor of its own."""
    return torch.from_numpy(np.array(array[rows]))
