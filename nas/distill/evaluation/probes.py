"""Probes of frozen features: classes, segmentation, pixels of an object or its edges, and retrieval.

They work on tensors; `nas.distill.evaluation.tasks` says which of them a study's data gets. None has randomness.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from scipy.special import comb
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

NEIGHBORS = 20
TEMPERATURE = 0.07
INVERSE_PENALTY = 0.1  # of the linear probe
MAX_ITERATIONS = 300  # for 8,000 x 256 features of CIFAR-10's teachers it took 87, 0.7 s on one CPU
RIDGE_PENALTY = 1e-2  # against channels of variance 1
CONSTANT_SHARE = 1e-9  # a channel whose variance is below this share of its mean square is taken for constant
_ENLARGED = 8  # images whose class scores are enlarged at a time: classes x S x S numbers each
GALLERY = 10  # candidates in a retrieval of pairs: larger galleries leave more noise than differences
POINTS = 4  # a side of a cell, at which `PixelProbe` answers
THRESHOLDS = 1024  # of a `PixelProbe`, evenly spaced over LOWEST to HIGHEST
LOWEST, HIGHEST = -0.5, 1.5  # answers beyond are clipped: most are between 0 and 1


class Ridge:
    """Ridge regression in closed form from features (N, C) to values (N, k), which come in pieces.

    The penalty is on standardized features, so that a channel's scale and mean change no prediction. Only sums are
    kept, in float64.
    """

    def __init__(self) -> None:
        self._moments = torch.zeros(())  # of (features, 1)
        self._products = torch.zeros(())

    def add(self, features: Tensor, values: Tensor, weights: Tensor | None = None) -> None:
        """Add samples, with weights (N,) or a weight of 1 each."""
        x, y = with_bias(features), values.double()
        weighted = x if weights is None else x * weights.double()[:, None]
        self._moments = self._moments + weighted.T @ x
        self._products = self._products + weighted.T @ y

    def solve(self) -> Tensor:
        """Return weights (C + 1, k) in float64, the bias last: values are about ``with_bias(features) @ weights``."""
        count = self._moments[-1, -1]
        means = self._moments / count
        mean, square = means[-1, :-1], means.diagonal()[:-1]
        varies = vary(square - mean**2, square)
        scale = torch.where(varies, (square - mean**2).clamp(min=0).sqrt(), 1.0)
        covariance = (means[:-1, :-1] - torch.outer(mean, mean)) / torch.outer(scale, scale)
        covariance = torch.where(torch.outer(varies, varies), covariance, 0.0)
        value_means = self._products / count
        right = (value_means[:-1] - torch.outer(mean, value_means[-1])) / scale[:, None]
        right = torch.where(varies[:, None], right, 0.0)
        penalty = RIDGE_PENALTY * torch.eye(len(covariance), dtype=covariance.dtype)
        slopes = torch.linalg.solve(covariance + penalty, right) / scale[:, None]
        return torch.cat([slopes, (value_means[-1] - mean @ slopes)[None]])


def vary(variance: Tensor, square: Tensor) -> Tensor:
    """Return which channels (C,) vary by more than rounding does.

    Args:
        variance: Variance of each channel.
        square: Mean square of each channel.
    """
    return variance > CONSTANT_SHARE * square


def with_bias(features: Tensor) -> Tensor:
    """Append a column of ones: (N, C) to (N, C + 1) in float64."""
    return torch.cat([features.double(), torch.ones(len(features), 1, dtype=torch.float64)], dim=1)


class SegmentationProbe:
    """Ridge regression from the features of a cell to each class's share of its pixels, scored by mean IoU.

    Only sums are kept in memory. Masks are (N, S, S) class indices; indices >= `classes` are void: they count neither
    in fitting nor in scoring.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._ridge = Ridge()
        self._weights: Tensor | None = None
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64)  # truth x prediction, in pixels

    def fit(self, spatial: Tensor, masks: Tensor) -> None:
        """Add features (N, C, h, w) and their masks to learn from."""
        counts = class_shares(masks, self.classes, (spatial.shape[-2], spatial.shape[-1]))
        valid = counts.sum(1, keepdim=True)  # share of a cell that isn't void
        self._ridge.add(tokens(spatial), tokens(counts / valid.clamp(min=1e-6)), tokens(valid)[:, 0])

    def predict(self, spatial: Tensor, size_px: int) -> Tensor:
        """Return the class of every pixel (N, size, size) by the cells' scores, enlarged bilinearly."""
        if self._weights is None:
            self._weights = self._ridge.solve()
        n, _, h, w = spatial.shape
        scores = (with_bias(tokens(spatial)) @ self._weights).float().view(n, h, w, -1).permute(0, 3, 1, 2)
        enlarged = (
            F.interpolate(some, size=(size_px, size_px), mode="bilinear", align_corners=False)
            for some in torch.split(scores, _ENLARGED)
        )
        return torch.cat([some.argmax(1) for some in enlarged])

    def score(self, spatial: Tensor, masks: Tensor) -> None:
        """Add features (N, C, h, w) and their masks to be scored on, once fitted."""
        self.confusion += confusion(self.predict(spatial, masks.shape[-1]), masks, self.classes)

    @property
    def miou(self) -> float:
        """Return the mean IoU of all that was scored; NaN without a fit, or where masks hold less than two classes."""
        fitted = self._weights is not None and bool(self._weights.isfinite().all())
        return mean_iou(self.confusion) if fitted and (self.confusion.sum(1) > 0).sum() > 1 else math.nan


class PixelProbe:
    """Ridge regression from the features of a cell to 4 x 4 points in it, scored as a detector of kinds of pixels.

    A point's value is the share of pixels of a kind around it; answers are enlarged bilinearly to pixels. Only sums are
    kept in memory: the answers on held-out images go into a histogram. Pixels are given as booleans (N, kinds, S, S).
    """

    def __init__(self, kinds: int) -> None:
        self._ridge = Ridge()
        self._weights: Tensor | None = None
        self.histogram = torch.zeros(kinds, 2, THRESHOLDS, dtype=torch.int64)  # pixels by kind, truth and answer

    def fit(self, spatial: Tensor, positive: Tensor) -> None:
        """Add features (N, C, h, w) and the pixels of each kind to learn from."""
        points = (POINTS * spatial.shape[-2], POINTS * spatial.shape[-1])
        shares = F.adaptive_avg_pool2d(positive.float(), points)
        self._ridge.add(tokens(spatial), tokens(F.pixel_unshuffle(shares, POINTS)))

    def predict(self, spatial: Tensor, size_px: int) -> Tensor:
        """Return the answer for every kind and pixel (N, kinds, size, size)."""
        if self._weights is None:
            self._weights = self._ridge.solve()
        n, _, h, w = spatial.shape
        answers = (with_bias(tokens(spatial)) @ self._weights).float().view(n, h, w, -1).permute(0, 3, 1, 2)
        points = F.pixel_shuffle(answers, POINTS)
        return F.interpolate(points, size=(size_px, size_px), mode="bilinear", align_corners=False)

    def score(self, spatial: Tensor, positive: Tensor) -> None:
        """Add features (N, C, h, w) and the pixels of each kind to be scored on, once fitted."""
        answers = self.predict(spatial, positive.shape[-1])
        bins = ((answers - LOWEST) / (HIGHEST - LOWEST) * THRESHOLDS).long().clamp(0, THRESHOLDS - 1)
        for histogram, kind_bins, truth in zip(self.histogram, bins.unbind(1), positive.unbind(1), strict=True):
            counts = torch.bincount((kind_bins + THRESHOLDS * truth).flatten(), minlength=2 * THRESHOLDS)
            histogram += counts.view(2, THRESHOLDS)

    def average_precision(self, kind: int) -> float:
        """Return the average precision; NaN where no pixel is of the kind."""
        found, called = self._by_falling_threshold(kind)
        precision, recall = found / called.clamp(min=1), found / found[-1]
        return float((precision * recall.diff(prepend=torch.zeros(1, dtype=recall.dtype))).sum())

    def best_iou(self, kind: int) -> float:
        """Return the intersection over union at the best of all thresholds; NaN where no pixel is of the kind."""
        found, called = self._by_falling_threshold(kind)
        return float((found / (found[-1] + called - found)).max())

    def _by_falling_threshold(self, kind: int) -> tuple[Tensor, Tensor]:
        """Return how many pixels at or above each threshold, highest first, are of the kind, and how many in all."""
        found = self.histogram[kind, 1].flip(0).cumsum(0).double()
        return found, self.histogram[kind].sum(0).flip(0).cumsum(0).double()


def outlines(masks: Tensor) -> Tensor:
    """Return whether a pixel of masks (N, S, S) is within S / 32 pixels of one with another value, as (N, S, S)."""
    reach = max(1, masks.shape[-1] // 32)
    values = masks.float()[:, None]
    highest, lowest = (sign * F.max_pool2d(sign * values, 2 * reach + 1, 1, reach) for sign in (1, -1))
    return (highest != lowest)[:, 0]


def object_features(spatial: Tensor, masks: Tensor) -> Tensor:
    """Return the mean (N, C) of maps (N, C, h, w), their cells weighted by the share that masks (N, S, S) fill."""
    weights = F.adaptive_avg_pool2d((masks > 0).float()[:, None], (spatial.shape[-2], spatial.shape[-1]))
    return (spatial * weights).sum((2, 3)) / weights.sum((2, 3)).clamp(min=1e-9)


def recall_of_pairs(features: Tensor, gallery: int = GALLERY) -> float:
    """Return the share of features (2 N, C) whose partner is the nearest in a gallery, in centered cosine.

    Rows 2 i and 2 i + 1 are partners. The gallery of an even row is its partner and other odd rows, and the reverse.
    The share is the exact mean over all galleries of that size, and over the orders of ties: chance is 1 / size.
    """
    values = features.double()
    deviations = values - values.mean(0)
    varies = vary(deviations.square().mean(0), values.square().mean(0))
    centered = F.normalize(torch.where(varies, deviations, 0.0), dim=1)
    similarity = centered[0::2] @ centered[1::2].T
    own = similarity.diagonal()[:, None]
    closer, tied = (
        torch.cat([compared(similarity, own).sum(1), compared(similarity.T, own).sum(1)]).numpy()
        for compared in (torch.gt, torch.eq)
    )
    others = len(similarity) - 1
    drawn = min(gallery, len(similarity)) - 1
    # The share of galleries without any of the r candidates that are closer than the partner, summed over r.
    without = comb(others - np.arange(others + 1), drawn) / comb(others, drawn)
    summed = np.concatenate([[0.0], without.cumsum()])
    return float(((summed[closer + tied] - summed[closer]) / tied).mean())  # the partner is one of its ties


def class_shares(masks: Tensor, classes: int, cells: tuple[int, int]) -> Tensor:
    """Return the share of each class (N, classes, h, w) in every cell; void takes the rest."""
    shares = [F.adaptive_avg_pool2d((masks == label).float()[:, None], cells) for label in range(classes)]
    return torch.cat(shares, dim=1)


def confusion(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Count pixels (classes, classes) by truth and prediction; void pixels (>= classes) are left out."""
    valid = truth < classes
    pairs = truth[valid].long() * classes + predicted[valid]
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def mean_iou(table: Tensor) -> float:
    """Return the mean of intersection / union over the classes that occur in the truth; NaN where none does."""
    counts = table.double()
    intersection, union = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
    return float((intersection / union.clamp(min=1))[counts.sum(1) > 0].mean())


def tokens(spatial: Tensor) -> Tensor:
    """Flatten (N, C, h, w) to (N h w, C)."""
    return spatial.flatten(2).transpose(1, 2).flatten(0, 1)


def accuracy(predicted: Tensor, truth: Tensor) -> float:
    """Return the share of equal entries."""
    return float((predicted == truth).float().mean())


def retrieval(bank: Tensor, bank_targets: Tensor, queries: Tensor, targets: Tensor) -> float:
    """Return the share of images whose own teacher summary is the nearest of all, in cosine, to the predicted one.

    Ridge regression on the bank maps the student's summary (N, C) to the teacher's (N, k), so that students without a
    head for this teacher can be compared. Chance is 1 / (number of queries).
    """
    ridge = Ridge()
    ridge.add(bank, bank_targets)
    similarity = F.normalize(with_bias(queries) @ ridge.solve(), dim=1) @ F.normalize(targets.double(), dim=1).T
    return accuracy(similarity.argmax(1), torch.arange(len(targets)))


def linear_classify(bank: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """Return the class of each query (Q, C) by logistic regression on the bank (N, C), features standardized.

    Channels that are constant but for rounding count as 0. L-BFGS from zero, in float64, has no randomness.

    Raises:
        ValueError: all labels are the same.
    """
    bank, queries = bank.double(), queries.double()
    mean, deviation = bank.mean(0), bank.std(0)
    varies = vary(deviation.square(), bank.square().mean(0))
    features, questions = (torch.where(varies, (each - mean) / deviation, 0.0).numpy() for each in (bank, queries))
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopped early, it is still a classifier
        model.fit(features, labels.numpy())
    return torch.from_numpy(model.predict(questions))


def knn_classify(bank: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """Return the class of each query (Q, C) by its 20 nearest of `bank` (N, C) in cosine, weighted exp(sim / 0.07).

    Source: Wu et al. 2018, as in DINO and AM-RADIO.
    """
    similarity = F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T
    values, index = similarity.topk(min(NEIGHBORS, len(bank)), dim=1)
    present: Tensor
    present, numbers = torch.unique(labels, return_inverse=True)  # labels may be ids, of which few are used
    votes = torch.zeros(len(queries), len(present))
    votes.scatter_add_(1, numbers[index], (values / TEMPERATURE).exp())
    return present[votes.argmax(1)]
