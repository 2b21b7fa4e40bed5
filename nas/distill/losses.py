"""Distillation losses of AM-RADIO, PHI-S and C-RADIOv4: predictions against a teacher's targets, one value an image.

`nas.cache.standardize` brings features to PHI-S targets: once, when the cache is built, or batch by batch for live
teachers (`nas.distill.live`). Every other standardization of the same kept directions is a scale and an offset of these
targets, in the orthonormal basis that PHI-S rotates to, so that no standardization needs a cache of its own. A head
answers in the space of its loss: a `TargetTransform` brings targets there, and only an evaluation brings predictions
back. `DistillationLoss.__call__` computes the losses of all heads, and `nas.distill.balance` makes one scalar of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.cache.standardize import Standardizer
from nas.cache.targets import SplitTargets, Targets
from nas.study.config import ANGULAR_LOSSES, DistillConfig

_DISPERSION_IMAGES = 2048


@dataclass(frozen=True)
class TargetTransform:
    """The map from PHI-S targets to the space in which a head answers: scale * targets + offset.

    Args:
        scale: of all channels.
        offset: (k,); None for PHI-S itself, which leaves targets as they are.
        weight: factor that makes a mean of squares over the k channels one over the teacher's C channels.
        rest: length of the mean's part outside of the kept directions. Features get it back when they are decompressed,
            so that prediction and target share it; it changes angles between them, but no difference.
    """

    scale: float = 1.0
    offset: Tensor | None = None
    weight: float = 1.0
    rest: float = 0.0

    def apply(self, targets: Tensor) -> Tensor:
        """Bring PHI-S targets (B, k) or (B, k, g, g) to the head's space."""
        return targets if self.offset is None else targets * self.scale + self._broadcast(self.offset, targets)

    def invert(self, predictions: Tensor) -> Tensor:
        """Bring predictions of a head back to PHI-S; the inverse of `apply`."""
        if self.offset is None:
            return predictions
        return (predictions - self._broadcast(self.offset, predictions)) / self.scale

    def unit_vectors(self, values: Tensor) -> Tensor:
        """Scale a head's answers (B, k) or (B, k, g, g), in its own space, to length 1, their part outside included."""
        return F.normalize(_with_rest(values, self), dim=1)

    @torch.no_grad()
    def move(self, layer: nn.Linear) -> None:
        """Change a layer (k outputs) that answers in PHI-S so that it gives the same answers in the head's space."""
        if self.offset is not None:
            layer.weight *= self.scale
            layer.bias.copy_(layer.bias * self.scale + self.offset.to(layer.bias.device))

    def to(self, device: torch.device) -> TargetTransform:
        """Return the same transform with its offset on `device`."""
        return self if self.offset is None else replace(self, offset=self.offset.to(device))

    @staticmethod
    def _broadcast(offset: Tensor, values: Tensor) -> Tensor:
        return offset.to(values.device).view(1, -1, *[1] * (values.ndim - 2))


PHI_S = TargetTransform()
# (prediction, target, their transform) -> (B,); prediction and target are (B, k) or (B, k, g, g)
Loss = Callable[[Tensor, Tensor, TargetTransform], Tensor]


def phi_s(standardizer: Standardizer) -> TargetTransform:
    """Return the transform to the stored form: channels of mean 0 and variance 1 (PHI-S, arXiv 2410.01680)."""
    return PHI_S


def raw(standardizer: Standardizer) -> TargetTransform:
    """Return the transform that undoes the scale and the centering of PHI-S.

    Features stay in the k rotated directions; `weight` and `rest` make errors and angles those of the teacher's C
    channels, as in AM-RADIO.
    """
    basis, phi = _basis(standardizer)
    return _affine(basis, phi, _mean(standardizer))


def global_standardization(standardizer: Standardizer) -> TargetTransform:
    """Return the transform to one mean and one deviation for all of a teacher's channels."""
    basis, phi = _basis(standardizer)
    mean = _mean(standardizer)
    channels = len(mean)
    variance = phi**2 * standardizer.dims / standardizer.kept / channels + mean.var(correction=0)
    deviation = float(variance.sqrt())
    return _affine(basis, phi / deviation, (mean - mean.mean()) / deviation)


TRANSFORMS: dict[str, Callable[[Standardizer], TargetTransform]] = {
    "phi_s": phi_s,
    "global": global_standardization,
    "raw": raw,
}


def _affine(basis: Tensor, scale: float, mean: Tensor) -> TargetTransform:
    """Return the transform to features with a `mean` (C,), in the (C, k) basis of the kept directions."""
    channels, dims = basis.shape
    offset = basis.T @ mean
    return TargetTransform(scale, offset, dims / channels, float((mean - basis @ offset).norm()))


def _basis(standardizer: Standardizer) -> tuple[Tensor, float]:
    """Return the orthonormal (C, k) basis of the kept directions, and phi, its scale."""
    inverse = torch.from_numpy(standardizer.inverse).float()
    phi = float(inverse[:, 0].norm())
    return inverse / phi, phi


def _mean(standardizer: Standardizer) -> Tensor:
    return torch.from_numpy(standardizer.mean).float()


def squared_error(prediction: Tensor, target: Tensor, transform: TargetTransform) -> Tensor:
    """Return the mean squared error of each image (B,), in the space of prediction and target."""
    return transform.weight * _per_image((prediction - target).square())


def cosine_distance(prediction: Tensor, target: Tensor, transform: TargetTransform) -> Tensor:
    """Return 1 - cosine over the channels, averaged over positions (B,)."""
    return 1 - _per_image(F.cosine_similarity(_with_rest(prediction, transform), _with_rest(target, transform), dim=1))


def hybrid(prediction: Tensor, target: Tensor, transform: TargetTransform) -> Tensor:
    """Return 0.9 cosine distance + 0.1 smooth L1 (AM-RADIO, arXiv 2312.06709), (B,).

    Smooth L1 is that of the teacher's C channels, if the differences in the k channels spread evenly over them.
    """
    spread = transform.weight**0.5
    smooth = F.smooth_l1_loss(spread * prediction, spread * target, reduction="none")
    return 0.9 * cosine_distance(prediction, target, transform) + 0.1 * _per_image(smooth)


def squared_angle(prediction: Tensor, target: Tensor, transform: TargetTransform) -> Tensor:
    """Return the squared angle in rad^2 over the channels, averaged over positions (B,).

    The angle comes from the half-angle's tangent, whose gradient stays finite where that of arccos does not (Kahan).
    """
    u, v = transform.unit_vectors(prediction), transform.unit_vectors(target)
    difference, total = (u - v).square().sum(1), (u + v).square().sum(1)
    angle = 2 * torch.atan2((difference + 1e-12).sqrt(), (total + 1e-12).sqrt())
    return _per_image(angle.square())


def _with_rest(values: Tensor, transform: TargetTransform) -> Tensor:
    """Append a constant channel, in which features have their mean's part outside of the kept directions."""
    return values if transform.rest == 0 else torch.cat([values, torch.full_like(values[:, :1], transform.rest)], dim=1)


def _per_image(values: Tensor) -> Tensor:
    """Average (B, ...) to (B,)."""
    return values.reshape(len(values), -1).mean(1)


LOSSES: dict[str, Loss] = {
    "mse": squared_error,
    "cosine": cosine_distance,
    "hybrid": hybrid,
    "angle": squared_angle,
}


def angular_dispersion(targets: Tensor, transform: TargetTransform = PHI_S) -> float:
    """Return the mean squared angle in rad^2 between targets and their mean direction: the width of a teacher's cone.

    C-RADIOv4 divides the squared angle by it, lest the teacher with the widest cone dominate.
    """
    targets = _with_rest(targets, transform)
    tokens = targets if targets.ndim == 2 else targets.flatten(2).transpose(1, 2).flatten(0, 1)
    center = F.normalize(tokens, dim=1).mean(0, keepdim=True)
    return float(squared_angle(center.expand_as(tokens), tokens, PHI_S).mean())


class DistillationLoss:
    """The losses of a recipe, by head: predictions in the head's own space against targets brought there.

    Args:
        targets: the cached teachers.
        config: the recipe.
        device: where predictions will be.

    Attributes:
        weights: "teacher/head" -> its weight.
        transforms: "teacher/head" -> the transform to the space in which the head answers.
        angular_transforms: those of `transforms` whose loss ignores length.
    """

    def __init__(self, targets: Targets, config: DistillConfig, device: torch.device) -> None:
        self.weights = head_weights(targets.train, config.weights)
        self.transforms: dict[str, TargetTransform] = {}
        self._losses: dict[str, Loss] = {}
        self._divisors: dict[str, float] = {}
        self.angular_transforms: dict[str, TargetTransform] = {}
        for key in self.weights:
            teacher, head = key.rsplit("/", 1)
            name = config.summary_loss if head == "summary" else config.spatial_loss
            # A cosine or an angle is defined for the teacher's own features, not for centered ones, so such losses
            # always use `raw`.
            kind = "raw" if name in ANGULAR_LOSSES else config.standardization
            transform = TRANSFORMS[kind](getattr(targets.teachers[teacher], head))
            self._losses[key] = LOSSES[name]
            self._divisors[key] = 1.0
            if name == "angle":
                some = np.array(array_of(targets.train, key)[:_DISPERSION_IMAGES])
                features = transform.apply(torch.from_numpy(some).float())
                self._divisors[key] = angular_dispersion(features, transform)
            self.transforms[key] = transform.to(device)
            if name in ANGULAR_LOSSES:
                self.angular_transforms[key] = self.transforms[key]

    def __call__(
        self, predictions: Mapping[str, Mapping[str, Tensor]], targets: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return "teacher/head" -> loss of each image (B,).

        Args:
            predictions: teacher -> head -> its answer.
            targets: "teacher/head" -> PHI-S targets.
        """
        losses = {}
        for teacher, heads in predictions.items():
            for head, prediction in heads.items():
                key = f"{teacher}/{head}"
                transform = self.transforms[key]
                target = transform.apply(targets[key])
                losses[key] = self._losses[key](prediction.float(), target, transform) / self._divisors[key]
        return losses


def head_weights(split: SplitTargets, factors: Mapping[str, float]) -> dict[str, float]:
    """Return the weight of every "teacher/head".

    It is the teacher's factor, shared by the teacher's heads, times the head's own; both are 1 by default.
    """
    weights = {}
    for teacher in split.spatial:
        heads = ["summary", "spatial"] if teacher in split.summary else ["spatial"]
        for head in heads:
            weights[f"{teacher}/{head}"] = (
                factors.get(teacher, 1.0) * factors.get(f"{teacher}/{head}", 1.0) / len(heads)
            )
    return weights


def array_of(split: SplitTargets, key: str) -> Any:
    """Return the stored targets of "teacher/head"."""
    teacher, head = key.rsplit("/", 1)
    return split.summary[teacher] if head == "summary" else split.spatial[teacher]
