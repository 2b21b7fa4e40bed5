"""A linear segmentation probe on spatial features: fitted and scored image by image, nothing but sums in memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.distill.ridge import Ridge, with_bias

ENLARGED = 8  # images whose scores are as large as the image at a time: they are classes x S x S numbers each


class SegmentationProbe:
    """Ridge regression from the features of a cell to each class's share of its pixels, then mean IoU.

    Masks are (N, S, S) class indices; those >= `classes` are void: they count neither in fitting nor in scoring.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._ridge = Ridge()
        self._weights: Tensor | None = None
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64)  # truth x prediction, in pixels

    def fit(self, spatial: Tensor, masks: Tensor) -> None:
        """More to learn from: features (N, C, h, w) and their masks."""
        counts = class_shares(masks, self.classes, (spatial.shape[-2], spatial.shape[-1]))
        valid = counts.sum(1, keepdim=True)  # share of a cell that isn't void
        self._ridge.add(tokens(spatial), tokens(counts / valid.clamp(min=1e-6)), tokens(valid)[:, 0])

    def predict(self, spatial: Tensor, size_px: int) -> Tensor:
        """Class of every pixel (N, size, size): scores of the cells, enlarged bilinearly."""
        if self._weights is None:
            self._weights = self._ridge.solve()
        n, _, h, w = spatial.shape
        scores = (with_bias(tokens(spatial)) @ self._weights).float().view(n, h, w, -1).permute(0, 3, 1, 2)
        enlarged = (
            F.interpolate(some, size=(size_px, size_px), mode="bilinear", align_corners=False)
            for some in torch.split(scores, ENLARGED)
        )
        return torch.cat([some.argmax(1) for some in enlarged])

    def score(self, spatial: Tensor, masks: Tensor) -> None:
        """More to be judged by, once fitted."""
        self.confusion += confusion(self.predict(spatial, masks.shape[-1]), masks, self.classes)

    @property
    def miou(self) -> float:
        """Over all that was scored; NaN where nothing was learnt, or the truth holds less than two classes."""
        learnt = self._weights is not None and bool(self._weights.isfinite().all())
        return mean_iou(self.confusion) if learnt and (self.confusion.sum(1) > 0).sum() > 1 else math.nan


def class_shares(masks: Tensor, classes: int, cells: tuple[int, int]) -> Tensor:
    """Share of each class (N, classes, h, w) in every cell; void takes the rest."""
    shares = [F.adaptive_avg_pool2d((masks == label).float()[:, None], cells) for label in range(classes)]
    return torch.cat(shares, dim=1)


def confusion(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Pixels (classes, classes) by truth and prediction; void ones (>= classes) are left out."""
    valid = truth < classes
    pairs = truth[valid].long() * classes + predicted[valid]
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def mean_iou(table: Tensor) -> float:
    """Mean of intersection / union over the classes that occur in the truth; NaN where that is none."""
    counts = table.double()
    intersection, union = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
    return float((intersection / union.clamp(min=1))[counts.sum(1) > 0].mean())


def tokens(spatial: Tensor) -> Tensor:
    """(N, C, h, w) as (N h w, C)."""
    return spatial.flatten(2).transpose(1, 2).flatten(0, 1)
