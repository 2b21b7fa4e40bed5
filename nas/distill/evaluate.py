"""How much of the teachers a student explains on held-out images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas.cache.targets import SplitTargets
from nas.distill.comparison import array_of
from nas.distill.heads import normalise


def predict(
    student: nn.Module, split: SplitTargets, device: str | torch.device, batch: int = 100
) -> Iterator[tuple[slice, Any]]:
    """Runs `student` over a split in order: yields (rows, its output on them), without gradients."""
    with torch.inference_mode():
        for start in range(0, len(split.images), batch):
            rows = slice(start, min(start + batch, len(split.images)))
            yield rows, student(normalise(read(split.images, rows).to(device)))


def explained_variance(
    student: nn.Module, split: SplitTargets, device: str | torch.device
) -> dict[str, dict[str, float]]:
    """teacher -> head -> 1 - (squared error) / (variance of the teacher's targets), over the whole split.

    1 is a perfect copy, 0 is as good as the constant mean, negative is worse. The same for any rotation and
    common scale of the targets, so PHI-S and a global standardisation give the same number.
    """
    error: dict[tuple[str, str], float] = defaultdict(float)
    for rows, predictions in predict(student, split, device):
        for teacher, heads in predictions.items():
            for head, prediction in heads.items():
                truth = read(array_of(split, f"{teacher}/{head}"), rows).float().to(prediction.device)
                error[teacher, head] += float(((prediction.float() - truth) ** 2).sum())
    scores: dict[str, dict[str, float]] = defaultdict(dict)
    for (teacher, head), squared in error.items():
        scores[teacher][head] = 1.0 - squared / total_variance(array_of(split, f"{teacher}/{head}"))
    return dict(scores)


def total_variance(array: Any) -> float:
    """Sum of squared distances of all targets (N, k, ...) from their mean over images and positions."""
    values = torch.from_numpy(np.asarray(array[:], dtype=np.float32))
    mean = values.mean([d for d in range(values.ndim) if d != 1], keepdim=True)
    return float(((values - mean) ** 2).sum())


def read(array: Any, rows: slice) -> Tensor:
    """Some rows of a stored array, as a tensor of its own."""
    return torch.from_numpy(np.array(array[rows]))
