"""Explained variance (R²): how much of the teachers' features a student predicts on held-out images."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from nas.cache.shards import TargetArray, read_rows
from nas.cache.targets import SplitTargets
from nas.distill.heads import Predictions, normalize
from nas.distill.losses import TargetTransform, array_of

ROUNDING = 1e-6  # share of the squared lengths of unit vectors: a variance below is that of float32's rounding
_ROWS = 256  # read at a time
_PIXELS = 200 * 224**2  # of the images that a model takes at a time: 200 of 1024 px would fill a GPU of 80 GB
_variances: dict[int, float] = {}  # id of a living array -> its total variance


class TargetPredictor(Protocol):
    """A model that predicts every teacher's targets; a `Student` is one."""

    def predict_targets(self, images: Tensor) -> Predictions:
        """Map (B, 3, S, S) normalized images to PHI-S targets."""


def predict(
    model: Callable[[Tensor], Any],
    split: SplitTargets,
    device: str | torch.device,
    batch: int = 100,
    images: int | None = None,
) -> Iterator[tuple[slice, Any]]:
    """Run `model` on the first `images` of a split (default: all) without gradients; yield (rows, its output).

    It takes at most `batch` images at a time, see also `images_at_once`.
    """
    count = len(split.images) if images is None else min(images, len(split.images))
    with torch.inference_mode():
        for rows in slices(count, min(batch, images_at_once(split.images.shape[-1]))):
            yield rows, model(normalize(read_rows(split.images, rows, device)))


def explained_variance(
    model: TargetPredictor,
    split: SplitTargets,
    device: str | torch.device,
    angular_transforms: Mapping[str, TargetTransform] = MappingProxyType({}),
) -> dict[str, dict[str, float]]:
    """Return teacher -> head -> 1 - (squared error) / (variance of the teacher's targets), over the whole split.

    1 is a perfect copy, 0 is as good as the constant mean, negative is worse. Any rotation and any common scale of the
    targets leave it as it is, so PHI-S and a global standardization give the same number. A head of
    `angular_transforms` is compared after both its targets and its predictions are scaled to length 1.

    Args:
        model: a student, or another model that predicts PHI-S targets.
        split: held-out images with their targets.
        device: where the model is.
        angular_transforms: of the heads whose loss ignores length: "teacher/head" -> transform to the teacher's own
            features.

    Raises:
        ValueError: a teacher's targets are the same for all images.
    """
    errors: dict[tuple[str, str], list[Tensor]] = {}
    units: dict[tuple[str, str], list[Tensor]] = {}  # sums of targets of length 1
    for rows, predictions in predict(model.predict_targets, split, device):
        for teacher, heads in predictions.items():
            for head, prediction in heads.items():
                key = f"{teacher}/{head}"
                target, answer = read_rows(array_of(split, key), rows, prediction.device), prediction.float()
                if transform := angular_transforms.get(key):
                    target, answer = (transform.unit_vectors(transform.apply(values)) for values in (target, answer))
                    units.setdefault((teacher, head), []).append(target.double().sum(0))
                squared = ((answer - target) ** 2).flatten(1).sum(1).double()
                errors.setdefault((teacher, head), []).append(squared)
    explained: dict[str, dict[str, float]] = {}
    for (teacher, head), parts in errors.items():
        array, sums = array_of(split, f"{teacher}/{head}"), units.get((teacher, head))
        variance = total_variance(array) if sums is None else _variance_of_units(sums, len(array))
        if variance == 0:
            raise ValueError(
                f"{teacher}/{head} is the same on all held-out images: no variance to explain; choose other images"
            )
        by_image = 1.0 - len(split) / variance * torch.cat(parts).cpu().numpy()
        explained.setdefault(teacher, {})[head] = float(by_image.mean())
    return explained


def _variance_of_units(sums: Sequence[Tensor], images: int) -> float:
    """Return what `total_variance` would, of vectors of length 1 with these (k, ...) sums over batches."""
    total = torch.stack(list(sums)).sum(0).reshape(len(sums[0]), -1)  # (k, positions)
    count = images * total.shape[1]
    variance = count - float(total.sum(1).square().sum()) / count
    return variance if variance > ROUNDING * count else 0.0


def total_variance(array: TargetArray) -> float:
    """Return the sum of squared distances of all targets (N, k, ...) from their mean over images and positions.

    It is computed once in the life of an array, because every rung of every trial asks for it.
    """
    key = id(array)
    if key not in _variances:
        _variances[key] = _scatter(array)
        weakref.finalize(array, _variances.pop, key, None)  # another array may get the same id
    return _variances[key]


def constant_map_scores(split: SplitTargets) -> dict[str, float]:
    """Return by teacher the explained variance of the best prediction of the spatial targets that ignores the image.

    It has one value for each channel and position of the map, the mean over the images. Features depend on the
    position, as at an image's borders, so it is above 0. A teacher whose targets are the same everywhere is left out.
    """
    scores = {}
    for teacher, array in split.spatial.items():
        if variance := total_variance(array):
            scores[teacher] = 1.0 - _scatter(array, by_position=True) / variance
    return scores


def _scatter(array: TargetArray, by_position: bool = False) -> float:
    """Return the sum of squared distances from the mean over images, and positions unless `by_position`.

    It merges the centered sums of pieces (Chan et al. 1979), which subtracts no large numbers, for any mean.
    """
    width = int(np.prod(array.shape[1:])) if by_position else array.shape[1]
    count, mean, scatter = 0, np.zeros(width), 0.0
    for rows in slices(len(array), _ROWS):
        values = np.moveaxis(np.asarray(array[rows], dtype=np.float64), 1, -1).reshape(-1, width)
        piece_mean = values.mean(0)
        shift, total = piece_mean - mean, count + len(values)
        scatter += float(((values - piece_mean) ** 2).sum() + (shift**2).sum() * count * len(values) / total)
        mean += shift * len(values) / total
        count = total
    return scatter


def images_at_once(side_px: int) -> int:
    """Return how many images of this side a model takes at a time, so that large ones fit into a GPU's memory."""
    return max(1, _PIXELS // side_px**2)


def slices(count: int, size: int) -> Iterator[slice]:
    """Cut 0 to `count` into slices of `size`, the last one shorter."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
