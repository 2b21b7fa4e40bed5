"""What else the features are good for: kNN classification and linear segmentation. Labels are only used here."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.distill.heads import Student, resize
from nas.distill.trainer import predict
from nas.cache.targets import SplitTargets, Targets

_NEIGHBOURS = 20
_TEMPERATURE = 0.07
_PROBE_IMAGES = 1500
_RIDGE = 1e-2


def probe_metrics(student: Student, targets: Targets, device: str) -> dict[str, float]:
    """{"knn": accuracy, "miou": mean intersection over union}, each only where the images have labels or masks."""
    train, val = _first(targets.train, _PROBE_IMAGES), targets.val
    if train.labels is None and train.masks is None:
        return {}
    summary, spatial = _features(student, train, device)
    val_summary, val_spatial = _features(student, val, device)
    metrics = {}
    if train.labels is not None and val.labels is not None and targets.num_classes:
        labels = torch.from_numpy(np.array(train.labels))
        predicted = knn_classify(summary, labels, val_summary, targets.num_classes)
        metrics["knn"] = float((predicted == torch.from_numpy(np.array(val.labels))).float().mean())
    if train.masks is not None and val.masks is not None and targets.mask_classes:
        truth = torch.from_numpy(np.array(val.masks)).long()
        weights = fit_segmentation(spatial, torch.from_numpy(np.array(train.masks)).long(), targets.mask_classes)
        metrics["miou"] = mean_iou(segment(val_spatial, weights, truth.shape[-1]), truth, targets.mask_classes)
    return metrics


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
    x, y = _with_bias(spatial), shares.flatten(2).transpose(1, 2).flatten(0, 1).double()
    gram = x.T @ x
    gram += _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weights: Tensor = torch.linalg.solve(gram, x.T @ y)
    return weights


def segment(spatial: Tensor, weights: Tensor, size_px: int) -> Tensor:
    """Class of every pixel (N, size, size): the probe's scores at the map's cells, enlarged bilinearly."""
    n, _, h, w = spatial.shape
    scores = (_with_bias(spatial) @ weights).float().view(n, h, w, -1).permute(0, 3, 1, 2)
    return F.interpolate(scores, size=(size_px, size_px), mode="bilinear", align_corners=False).argmax(1)


def mean_iou(predicted: Tensor, truth: Tensor, classes: int) -> float:
    """Mean over the classes that occur in `truth` of intersection / union; void pixels (>= classes) are left out."""
    valid = truth < classes
    confusion = torch.bincount(truth[valid] * classes + predicted[valid], minlength=classes * classes)
    table = confusion.view(classes, classes).double()
    intersection, union = table.diagonal(), table.sum(0) + table.sum(1) - table.diagonal()
    return float((intersection / union.clamp(min=1))[table.sum(1) > 0].mean())


def _with_bias(spatial: Tensor) -> Tensor:
    tokens = spatial.flatten(2).transpose(1, 2).flatten(0, 1).double()
    return torch.cat([tokens, torch.ones(len(tokens), 1, dtype=tokens.dtype)], dim=1)


def _features(student: Student, split: SplitTargets, device: str) -> tuple[Tensor, Tensor]:
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


def _first(split: SplitTargets, count: int) -> SplitTargets:
    """The first `count` images of a split, without their targets."""
    labels = None if split.labels is None else split.labels[:count]
    masks = None if split.masks is None else split.masks[:count]
    return SplitTargets(images=split.images[:count], labels=labels, masks=masks, summary={}, spatial={})
