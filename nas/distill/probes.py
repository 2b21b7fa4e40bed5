"""What else the features are good for: classes by neighbours and by a linear probe, segments, the teachers' images.

Labels and masks are only used here. Probes are fitted on the first train images, scored on all held-out ones, and have
no randomness of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from nas.cache.targets import SplitTargets, Targets
from nas.distill.evaluate import predict, read
from nas.distill.heads import Student, resize

_NEIGHBOURS = 20
_TEMPERATURE = 0.07
_PROBE_IMAGES = 1500
_RIDGE = 1e-2
_PROBE_ROUNDS = 300


def probe_metrics(student: Student, targets: Targets, device: str, images: int = _PROBE_IMAGES) -> dict[str, float]:
    """The probes of a student on up to `images` train images and all held-out ones.

    {"knn", "probe": accuracies, "miou": mean intersection over union, "retrieval/TEACHER": share of images}, each
    only where the images have labels or masks.
    """
    train, val = first(targets.train, images), targets.val
    bank, maps = backbone_features(student, train, device)
    queries, val_maps = backbone_features(student, val, device)
    metrics = {}
    if train.labels is not None and val.labels is not None and targets.num_classes:
        labels, truth = read(train.labels, slice(None)), read(val.labels, slice(None))
        metrics["knn"] = accuracy(knn_classify(bank, labels, queries, targets.num_classes), truth)
        metrics["probe"] = accuracy(linear_classify(bank, labels, queries), truth)
    if train.masks is not None and val.masks is not None and targets.mask_classes:
        masks, truth = read(train.masks, slice(None)).long(), read(val.masks, slice(None)).long()
        weights = fit_segmentation(maps, masks, targets.mask_classes)
        metrics["miou"] = mean_iou(segment(val_maps, weights, truth.shape[-1]), truth, targets.mask_classes)
    for teacher in targets.teachers:
        seen, wanted = summaries(train, teacher), summaries(val, teacher)
        metrics[f"retrieval/{teacher}"] = retrieval(bank, seen, queries, wanted)
    return metrics


def accuracy(predicted: Tensor, truth: Tensor) -> float:
    """Share of equal entries."""
    return float((predicted == truth).float().mean())


def summaries(split: SplitTargets, teacher: str) -> Tensor:
    """A teacher's summaries (N, k), or the means of its maps where it has none."""
    if teacher in split.summary:
        return read(split.summary[teacher], slice(None)).float()
    return read(split.spatial[teacher], slice(None)).float().mean((2, 3))


def retrieval(bank: Tensor, bank_targets: Tensor, queries: Tensor, targets: Tensor) -> float:
    """Share of images whose own teacher summary is the nearest of all, in cosine, to what the student makes of them.

    The student's summary (N, C) is mapped to the teacher's (N, k) by ridge regression on the bank: so students are
    compared that never had a head for this teacher.
    """
    weights = ridge(bank, bank_targets)
    found = F.normalize(with_bias(queries) @ weights, dim=1) @ F.normalize(targets.double(), dim=1).T
    return accuracy(found.argmax(1), torch.arange(len(targets)))


def linear_classify(bank: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """Class of each query (Q, C) by logistic regression on the bank (N, C), features standardised."""
    mean, deviation = bank.mean(0), bank.std(0).clamp(min=1e-6)
    model = LogisticRegression(C=0.1, max_iter=_PROBE_ROUNDS)
    model.fit(((bank - mean) / deviation).numpy(), labels.numpy())
    return torch.from_numpy(model.predict(((queries - mean) / deviation).numpy()))


def ridge(features: Tensor, wanted: Tensor) -> Tensor:
    """Least squares with a penalty from features (N, C) to (N, k): weights (C + 1, k) in float64, bias last."""
    x, y = with_bias(features), wanted.double()
    gram = x.T @ x
    gram += _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weights: Tensor = torch.linalg.solve(gram, x.T @ y)
    return weights


def knn_classify(bank: Tensor, labels: Tensor, queries: Tensor, classes: int) -> Tensor:
    """Class of each query (Q, C) by its 20 nearest of `bank` (N, C) in cosine, weighted exp(sim / 0.07).

    Source: Wu et al. 2018, as in DINO and AM-RADIO.
    """
    similarity = F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T
    values, index = similarity.topk(min(_NEIGHBOURS, len(bank)), dim=1)
    votes = torch.zeros(len(queries), classes)
    votes.scatter_add_(1, labels[index], (values / _TEMPERATURE).exp())
    return votes.argmax(1)


def fit_segmentation(spatial: Tensor, masks: Tensor, classes: int) -> Tensor:
    """Ridge regression from features (N, C, h, w) to the share of each class in a cell; weights (C + 1, classes).

    Closed form, so the probe adds no noise of its own. Masks are (N, S, S) class indices; those >= `classes` are void.
    """
    shares = F.one_hot(masks.clamp(max=classes), classes + 1)[..., :classes].permute(0, 3, 1, 2).float()
    shares = F.adaptive_avg_pool2d(shares, spatial.shape[-1])
    return ridge(tokens(spatial), tokens(shares))


def segment(spatial: Tensor, weights: Tensor, size_px: int) -> Tensor:
    """Class of every pixel (N, size, size): the probe's scores at the map's cells, enlarged bilinearly."""
    n, _, h, w = spatial.shape
    scores = (with_bias(tokens(spatial)) @ weights).float().view(n, h, w, -1).permute(0, 3, 1, 2)
    return F.interpolate(scores, size=(size_px, size_px), mode="bilinear", align_corners=False).argmax(1)


def mean_iou(predicted: Tensor, truth: Tensor, classes: int) -> float:
    """Mean over the classes that occur in `truth` of intersection / union; void pixels (>= classes) are left out."""
    valid = truth < classes
    confusion = torch.bincount(truth[valid] * classes + predicted[valid], minlength=classes * classes)
    table = confusion.view(classes, classes).double()
    intersection, union = table.diagonal(), table.sum(0) + table.sum(1) - table.diagonal()
    return float((intersection / union.clamp(min=1))[table.sum(1) > 0].mean())


def tokens(spatial: Tensor) -> Tensor:
    """(N, C, h, w) as (N h w, C)."""
    return spatial.flatten(2).transpose(1, 2).flatten(0, 1)


def with_bias(features: Tensor) -> Tensor:
    """(N, C) as (N, C + 1) in float64, the last column 1."""
    return torch.cat([features.double(), torch.ones(len(features), 1, dtype=torch.float64)], dim=1)


def backbone_features(student: Student, split: SplitTargets, device: str) -> tuple[Tensor, Tensor]:
    """Summary (N, C) and spatial features (N, C, grid, grid) of the backbone, before the heads."""
    outputs = [features for _, features in predict(_Encoder(student.backbone), split, device)]
    summary = torch.cat([f.summary.float().cpu() for f in outputs])
    return summary, torch.cat([resize(f.spatial.float(), student.heads.grid).cpu() for f in outputs])


class _Encoder(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Any:
        return self.backbone.encode(images)  # type: ignore[operator]


def first(split: SplitTargets, count: int) -> SplitTargets:
    """The first `count` items of a split."""

    def cut(array: Any) -> Any:
        return None if array is None else array[:count]

    def all_cut(arrays: Mapping[str, Any]) -> dict[str, Any]:
        return {name: cut(array) for name, array in arrays.items()}

    return SplitTargets(
        cut(split.images), cut(split.labels), cut(split.masks), all_cut(split.summary), all_cut(split.spatial)
    )
