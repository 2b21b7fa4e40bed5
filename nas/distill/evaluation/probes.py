"""Probes: classes by nearest neighbors and a linear probe, segmentation, and retrieval of the teachers' summaries.

Labels and masks are used here alone. Probes are fitted on the first train images, scored on the first held-out ones,
and have no randomness of their own. A metric that is undefined (no labels, one class only, features that are not
finite) is left out.

Compare accuracies with the teachers' own (`teacher_metrics`). On the built-in composites they are near chance because
the class (a glyph's category: "objects", "flags") is hardly visible, not because the student is bad: with 1,500 images
to vote and 600 held out, kNN is 0.347 for EfficientNet-Lite0, 0.133 for HED and 0.080 for XFeat at a chance of 0.067.
On CIFAR-10 (4,000 and 2,000 images) the same teachers reach 0.701, 0.463 and 0.320, and a student of 0.76M parameters
0.591 from Lite0 alone after 936 steps.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from backbones import Features
from nas.cache.targets import SplitTargets, Targets
from nas.distill.evaluation.explained_variance import predict, read, slices
from nas.distill.evaluation.zero_shot import zero_shot_accuracy
from nas.distill.heads import Student, resize

PROBE_IMAGES = 1500
HELD_OUT_IMAGES = 2000  # retrieval compares each with each
NEIGHBORS = 20
TEMPERATURE = 0.07
INVERSE_PENALTY = 0.1  # of the linear probe
MAX_ITERATIONS = 300  # for 8,000 x 256 features of CIFAR-10's teachers it took 87, 0.7 s on one CPU
RIDGE_PENALTY = 1e-2  # against channels of variance 1
CONSTANT_SHARE = 1e-9  # a channel whose variance is below this share of its mean square is taken for constant
_ROWS = 256  # targets read at a time
_ENLARGED = 8  # images whose class scores are enlarged at a time: classes x S x S numbers each

Batches = Iterator[tuple[slice, Tensor, Tensor]]  # rows, their summaries (B, C) and maps (B, C, g, g)


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
        varies = square - mean**2 > CONSTANT_SHARE * square
        scale = torch.where(varies, (square - mean**2).clamp(min=0).sqrt(), 1.0)
        covariance = (means[:-1, :-1] - torch.outer(mean, mean)) / torch.outer(scale, scale)
        covariance = torch.where(torch.outer(varies, varies), covariance, 0.0)
        value_means = self._products / count
        right = (value_means[:-1] - torch.outer(mean, value_means[-1])) / scale[:, None]
        right = torch.where(varies[:, None], right, 0.0)
        penalty = RIDGE_PENALTY * torch.eye(len(covariance), dtype=covariance.dtype)
        slopes = torch.linalg.solve(covariance + penalty, right) / scale[:, None]
        return torch.cat([slopes, (value_means[-1] - mean @ slopes)[None]])


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


class ProbeScores(NamedTuple):
    """Summaries (N, C) of the train and held-out images, and the metrics of the probes."""

    bank: Tensor
    queries: Tensor
    metrics: dict[str, float]


def probe_metrics(student: Student, targets: Targets, device: str, images: int = PROBE_IMAGES) -> dict[str, float]:
    """Score the probes of a student's backbone on up to `images` train images and 2,000 held-out ones.

    Returns:
        {"knn", "probe": accuracies, "miou": mean intersection over union, "retrieval/TEACHER" and "zero_shot/TEACHER":
        shares of images}; empty where the features are not finite.
    """
    train, val = targets.train, targets.val
    train_features, held_out_features = (
        student_features(student, split, device, count) for split, count in ((train, images), (val, HELD_OUT_IMAGES))
    )
    try:
        bank, queries, metrics = fit_and_score(train_features, held_out_features, targets)
    except FloatingPointError:
        return {}
    for teacher in targets.teachers:
        bank_targets, query_targets = (
            torch.cat([teacher_summary(split, teacher, rows) for rows in slices(len(summaries), _ROWS)])
            for split, summaries in ((train, bank), (val, queries))
        )
        metrics[f"retrieval/{teacher}"] = retrieval(bank, bank_targets, queries, query_targets)
        if teacher in student.heads.names and teacher in val.summary:
            with torch.inference_mode():
                predicted = student.heads.predict_summary(queries.to(device), teacher).cpu()
            metrics |= _metric(f"zero_shot/{teacher}", zero_shot_accuracy(targets, teacher, predicted))
    return metrics


def teacher_metrics(targets: Targets, teacher: str, images: int = PROBE_IMAGES) -> dict[str, float]:
    """Score the probes of a teacher's own targets, {"knn", "probe", "miou", "zero_shot"}, to compare students with."""
    train_features, held_out_features = (
        teacher_features(split, teacher, count)
        for split, count in ((targets.train, images), (targets.val, HELD_OUT_IMAGES))
    )
    _, queries, metrics = fit_and_score(train_features, held_out_features, targets)
    return metrics | _metric("zero_shot", zero_shot_accuracy(targets, teacher, queries))


def _metric(name: str, value: float | None) -> dict[str, float]:
    """Return one metric, or none."""
    return {} if value is None else {name: value}


def student_features(student: Student, split: SplitTargets, device: str, count: int) -> Batches:
    """Yield the backbone's features of the first `count` images; FloatingPointError where they are not finite."""
    encode: Callable[[Tensor], Features] = student.backbone.encode  # type: ignore[assignment]
    for rows, features in predict(encode, split, device, images=count):
        summary, spatial = features.summary.float().cpu(), resize(features.spatial.float(), student.heads.grid).cpu()
        if not (summary.isfinite().all() and spatial.isfinite().all()):
            raise FloatingPointError(f"features of images {rows.start} to {rows.stop} are not finite")
        yield rows, summary, spatial


def teacher_features(split: SplitTargets, teacher: str, count: int) -> Batches:
    """Yield the targets of the first `count` images."""
    for rows in slices(min(count, len(split)), _ROWS):
        yield rows, teacher_summary(split, teacher, rows), read(split.spatial[teacher], rows).float()


def teacher_summary(split: SplitTargets, teacher: str, rows: slice) -> Tensor:
    """Return targets (B, k) of the summary, or the means of the maps' targets where a teacher has no summary."""
    if teacher in split.summary:
        return read(split.summary[teacher], rows).float()
    return read(split.spatial[teacher], rows).float().mean((2, 3))


def fit_and_score(train_features: Batches, held_out_features: Batches, targets: Targets) -> ProbeScores:
    """Fit probes on features of train images and score them on held-out ones; maps are not kept."""
    train, val = targets.train, targets.val
    masked = train.masks is not None and val.masks is not None
    segmentation = SegmentationProbe(targets.mask_classes) if masked and targets.mask_classes else None
    bank, queries = [], []
    for rows, summary, spatial in train_features:
        bank.append(summary)
        if segmentation and train.masks is not None:
            segmentation.fit(spatial, read(train.masks, rows))
    for rows, summary, spatial in held_out_features:
        queries.append(summary)
        if segmentation and val.masks is not None:
            segmentation.score(spatial, read(val.masks, rows))
    metrics = class_metrics(torch.cat(bank), torch.cat(queries), targets)
    if segmentation and not math.isnan(segmentation.miou):
        metrics["miou"] = segmentation.miou
    return ProbeScores(torch.cat(bank), torch.cat(queries), metrics)


def class_metrics(bank: Tensor, queries: Tensor, targets: Targets) -> dict[str, float]:
    """Score {"knn", "probe"} on features (N, C) of the first train and held-out images.

    Empty without labels, or where the images on either side are all of one class, which no probe can get wrong.
    """
    if targets.train.labels is None or targets.val.labels is None or not targets.num_classes:
        return {}
    labels, truth = read(targets.train.labels, slice(len(bank))), read(targets.val.labels, slice(len(queries)))
    if (labels == labels[0]).all() or (truth == truth[0]).all():
        return {}
    return {
        "knn": accuracy(knn_classify(bank, labels, queries, targets.num_classes), truth),
        "probe": accuracy(linear_classify(bank, labels, queries), truth),
    }


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

    L-BFGS from zero, in float64, has no randomness.

    Raises:
        ValueError: all labels are the same.
    """
    mean, deviation = bank.double().mean(0), bank.double().std(0)
    scale = torch.where(deviation > 0, deviation, 1.0)
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopped early, it is still a classifier
        model.fit(((bank - mean) / scale).numpy(), labels.numpy())
    return torch.from_numpy(model.predict(((queries - mean) / scale).numpy()))


def knn_classify(bank: Tensor, labels: Tensor, queries: Tensor, classes: int) -> Tensor:
    """Return the class of each query (Q, C) by its 20 nearest of `bank` (N, C) in cosine, weighted exp(sim / 0.07).

    Source: Wu et al. 2018, as in DINO and AM-RADIO.
    """
    similarity = F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T
    values, index = similarity.topk(min(NEIGHBORS, len(bank)), dim=1)
    votes = torch.zeros(len(queries), classes)
    votes.scatter_add_(1, labels[index], (values / TEMPERATURE).exp())
    return votes.argmax(1)
