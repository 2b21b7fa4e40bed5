"""What else the features are good for: classes by neighbours and by a linear probe, segments, the teachers' images.

Labels and masks are only used here. Probes are fitted on the first train images, scored on the first held-out ones,
and have no randomness of their own. A number that cannot be had (no labels, one class only, features that are not
finite) is left out.

Accuracies are to be read beside the teachers' own, see `teacher_metrics`. On the embedded composites they are near
chance because the class (a glyph's category: "objects", "flags") is hardly visible, not because the student is bad:
with 1,500 images to vote and 600 held out, kNN is 0.347 for EfficientNet-Lite0, 0.133 for HED and 0.080 for XFeat at
a chance of 0.067. On CIFAR-10 (4,000 and 2,000 images) the same teachers reach 0.701, 0.463 and 0.320, and a student
of 0.76M parameters 0.591 from Lite0 alone after 936 steps.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from nas.cache.targets import SplitTargets, Targets
from nas.distill.evaluation.explained_variance import batches, predict, read
from nas.distill.evaluation.zero_shot import zero_shot_accuracy
from nas.distill.heads import Student, resize

PENALTY = 1e-2  # against channels of variance 1
CONSTANT = 1e-9  # a channel whose variance is below this share of its mean square says nothing


class Ridge:
    """Least squares from features (N, C) to values (N, k), penalised on standardised features.

    So neither a channel's scale nor its mean changes what comes out. Sums are float64, and all that is kept.
    """

    def __init__(self) -> None:
        self._moments = torch.zeros(())  # of (features, 1)
        self._products = torch.zeros(())

    def add(self, features: Tensor, values: Tensor, weights: Tensor | None = None) -> None:
        """More samples, perhaps with weights (N,)."""
        x, y = with_bias(features), values.double()
        weighted = x if weights is None else x * weights.double()[:, None]
        self._moments = self._moments + weighted.T @ x
        self._products = self._products + weighted.T @ y

    def solve(self) -> Tensor:
        """Weights (C + 1, k) in float64, the bias last: values are about ``with_bias(features) @ weights``."""
        count = self._moments[-1, -1]
        means = self._moments / count
        mean, square = means[-1, :-1], means.diagonal()[:-1]
        varies = square - mean**2 > CONSTANT * square
        scale = torch.where(varies, (square - mean**2).clamp(min=0).sqrt(), 1.0)
        covariance = (means[:-1, :-1] - torch.outer(mean, mean)) / torch.outer(scale, scale)
        covariance = torch.where(torch.outer(varies, varies), covariance, 0.0)
        wanted = self._products / count
        right = (wanted[:-1] - torch.outer(mean, wanted[-1])) / scale[:, None]
        right = torch.where(varies[:, None], right, 0.0)
        penalty = PENALTY * torch.eye(len(covariance), dtype=covariance.dtype)
        slopes = torch.linalg.solve(covariance + penalty, right) / scale[:, None]
        return torch.cat([slopes, (wanted[-1] - mean @ slopes)[None]])


def with_bias(features: Tensor) -> Tensor:
    """(N, C) as (N, C + 1) in float64, the last column 1."""
    return torch.cat([features.double(), torch.ones(len(features), 1, dtype=torch.float64)], dim=1)


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


PROBE_IMAGES = 1500
HELD_OUT = 2000  # retrieval compares each with each
NEIGHBOURS = 20
TEMPERATURE = 0.07
STRENGTH = 0.1  # of the linear probe: the inverse of its penalty
ROUNDS = 300  # for 8,000 x 256 features of CIFAR-10's teachers it took 87, 0.7 s on one CPU
READ = 256  # targets at a time

Batches = Iterator[tuple[slice, Tensor, Tensor]]  # rows, their summaries (B, C) and maps (B, C, g, g)


class Probed(NamedTuple):
    """Summaries (N, C) that were learnt from and judged, and the metrics."""

    bank: Tensor
    queries: Tensor
    metrics: dict[str, float]


def probe_metrics(student: Student, targets: Targets, device: str, images: int = PROBE_IMAGES) -> dict[str, float]:
    """The probes of a student's backbone on up to `images` train images and 2,000 held-out ones.

    {"knn", "probe": accuracies, "miou": mean intersection over union, "retrieval/TEACHER" and "zero_shot/TEACHER":
    shares of images}.
    """
    train, val = targets.train, targets.val
    seen, held_out = (
        student_features(student, split, device, count) for split, count in ((train, images), (val, HELD_OUT))
    )
    try:
        bank, queries, metrics = probed(seen, held_out, targets)
    except FloatingPointError:
        return {}
    for teacher in targets.teachers:
        known, wanted = (
            torch.cat([teacher_summary(split, teacher, rows) for rows in batches(len(of_student), READ)])
            for split, of_student in ((train, bank), (val, queries))
        )
        metrics[f"retrieval/{teacher}"] = retrieval(bank, known, queries, wanted)
        if teacher in student.heads.names and teacher in val.summary:
            with torch.inference_mode():
                predicted = student.heads.summarise(queries.to(device), teacher).float().cpu()
            metrics |= named(f"zero_shot/{teacher}", zero_shot_accuracy(targets, teacher, predicted))
    return metrics


def teacher_metrics(targets: Targets, teacher: str, images: int = PROBE_IMAGES) -> dict[str, float]:
    """The probes of a teacher's own targets, {"knn", "probe", "miou", "zero_shot"}: what to read a student's beside."""
    seen, held_out = (
        teacher_features(split, teacher, count) for split, count in ((targets.train, images), (targets.val, HELD_OUT))
    )
    _, queries, metrics = probed(seen, held_out, targets)
    return metrics | named("zero_shot", zero_shot_accuracy(targets, teacher, queries))


def named(name: str, value: float | None) -> dict[str, float]:
    """A metric, or none."""
    return {} if value is None else {name: value}


def student_features(student: Student, split: SplitTargets, device: str, count: int) -> Batches:
    """Of the backbone, before the heads, on the first `count` images; FloatingPointError where they aren't finite."""
    for rows, features in predict(Encoder(student.backbone), split, device, images=count):
        summary, spatial = features.summary.float().cpu(), resize(features.spatial.float(), student.heads.grid).cpu()
        if not (summary.isfinite().all() and spatial.isfinite().all()):
            raise FloatingPointError(f"features of images {rows.start} to {rows.stop} are not finite")
        yield rows, summary, spatial


def teacher_features(split: SplitTargets, teacher: str, count: int) -> Batches:
    """The targets of the first `count` images."""
    for rows in batches(min(count, len(split)), READ):
        yield rows, teacher_summary(split, teacher, rows), read(split.spatial[teacher], rows).float()


def teacher_summary(split: SplitTargets, teacher: str, rows: slice) -> Tensor:
    """Targets (B, k) of the summary, or the means of the maps' where a teacher has none."""
    if teacher in split.summary:
        return read(split.summary[teacher], rows).float()
    return read(split.spatial[teacher], rows).float().mean((2, 3))


def probed(seen: Batches, held_out: Batches, targets: Targets) -> Probed:
    """Probes fitted on features of train images and scored on held-out ones; maps are not kept."""
    train, val = targets.train, targets.val
    masked = train.masks is not None and val.masks is not None
    segmentation = SegmentationProbe(targets.mask_classes) if masked and targets.mask_classes else None
    bank, queries = [], []
    for rows, summary, spatial in seen:
        bank.append(summary)
        if segmentation and train.masks is not None:
            segmentation.fit(spatial, read(train.masks, rows))
    for rows, summary, spatial in held_out:
        queries.append(summary)
        if segmentation and val.masks is not None:
            segmentation.score(spatial, read(val.masks, rows))
    metrics = class_metrics(torch.cat(bank), torch.cat(queries), targets)
    if segmentation and not math.isnan(segmentation.miou):
        metrics["miou"] = segmentation.miou
    return Probed(torch.cat(bank), torch.cat(queries), metrics)


def class_metrics(bank: Tensor, queries: Tensor, targets: Targets) -> dict[str, float]:
    """{"knn", "probe"} of features (N, C) of the first train and held-out images.

    Empty without labels, or where the images on either side are all of one class, which nothing can get wrong.
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
    """Share of equal entries."""
    return float((predicted == truth).float().mean())


def retrieval(bank: Tensor, bank_targets: Tensor, queries: Tensor, targets: Tensor) -> float:
    """Share of images whose own teacher summary is the nearest of all, in cosine, to what the student makes of them.

    The student's summary (N, C) is mapped to the teacher's (N, k) by ridge regression on the bank: so students are
    compared that never had a head for this teacher. Chance is 1 / (number of queries).
    """
    ridge = Ridge()
    ridge.add(bank, bank_targets)
    found = F.normalize(with_bias(queries) @ ridge.solve(), dim=1) @ F.normalize(targets.double(), dim=1).T
    return accuracy(found.argmax(1), torch.arange(len(targets)))


def linear_classify(bank: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """Class of each query (Q, C) by logistic regression on the bank (N, C), features standardised.

    L-BFGS from zero, in float64: no randomness. ValueError where all labels are the same.
    """
    mean, deviation = bank.double().mean(0), bank.double().std(0)
    scale = torch.where(deviation > 0, deviation, 1.0)
    model = LogisticRegression(C=STRENGTH, max_iter=ROUNDS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopped early it is a classifier too
        model.fit(((bank - mean) / scale).numpy(), labels.numpy())
    return torch.from_numpy(model.predict(((queries - mean) / scale).numpy()))


def knn_classify(bank: Tensor, labels: Tensor, queries: Tensor, classes: int) -> Tensor:
    """Class of each query (Q, C) by its 20 nearest of `bank` (N, C) in cosine, weighted exp(sim / 0.07).

    Source: Wu et al. 2018, as in DINO and AM-RADIO.
    """
    similarity = F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T
    values, index = similarity.topk(min(NEIGHBOURS, len(bank)), dim=1)
    votes = torch.zeros(len(queries), classes)
    votes.scatter_add_(1, labels[index], (values / TEMPERATURE).exp())
    return votes.argmax(1)


class Encoder(nn.Module):
    """A backbone whose ``forward`` is its ``encode``."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Any:
        return self.backbone.encode(images)  # type: ignore[operator]
