"""How far a prediction is from a teacher: the losses of AM-RADIO, PHI-S and C-RADIOv4, one value an image.

Targets are stored as PHI-S features (nas.cache). Another standardisation of the same kept directions is a scale and an
offset of those, in the orthonormal basis that PHI-S turns into, so none needs a cache of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nas.cache.targets import SplitTargets, Targets
from nas.config import DIRECTIONS, DistillConfig

Loss = Callable[[Tensor, Tensor], Tensor]  # prediction and truth (B, k) or (B, k, g, g) to (B,)


@dataclass(frozen=True)
class Space:
    """targets = scale * (PHI-S targets) + offset (k,). `weight` makes a sum of squares the mean over C channels."""

    scale: float
    offset: Tensor
    weight: float = 1.0

    def enter(self, targets: Tensor) -> Tensor:
        """PHI-S targets (B, k) or (B, k, g, g) in this space."""
        return targets * self.scale + self._along(targets)

    def leave(self, targets: Tensor) -> Tensor:
        """Inverse of `enter`."""
        return (targets - self._along(targets)) / self.scale

    def _along(self, targets: Tensor) -> Tensor:
        return self.offset.to(targets.device).view(1, -1, *[1] * (targets.ndim - 2))


def phi_s(standardiser: Any) -> Space:
    """The stored form: every channel of mean 0 and variance 1 (arXiv 2410.01680)."""
    return Space(1.0, torch.zeros(standardiser.dims))


def raw(standardiser: Any) -> Space:
    """The teacher's own features; errors are means over its C channels, as AM-RADIO computes them."""
    basis, phi = _basis(standardiser)
    return Space(phi, basis.T @ _mean(standardiser), standardiser.dims / len(standardiser.mean))


def one_scale(standardiser: Any) -> Space:
    """Global standardisation: one mean and one deviation for all of a teacher's channels."""
    basis, phi = _basis(standardiser)
    mean = _mean(standardiser)
    channels = len(mean)
    variance = phi**2 * standardiser.dims / standardiser.kept / channels + mean.var(correction=0)
    deviation = float(variance.sqrt())
    offset = basis.T @ (mean - mean.mean()) / deviation
    return Space(phi / deviation, offset, standardiser.dims / channels)


SPACES: dict[str, Callable[[Any], Space]] = {"phi_s": phi_s, "global": one_scale, "raw": raw}


def _basis(standardiser: Any) -> tuple[Tensor, float]:
    """Orthonormal (C, k) basis of the kept directions, and phi, its scale."""
    inverse = torch.from_numpy(standardiser.inverse).float()
    phi = float(inverse[:, 0].norm())
    return inverse / phi, phi


def _mean(standardiser: Any) -> Tensor:
    return torch.from_numpy(standardiser.mean).float()


def squared_error(prediction: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error of each image (B,)."""
    return _per_image((prediction - truth).square())


def cosine_distance(prediction: Tensor, truth: Tensor) -> Tensor:
    """1 - cosine over the channels, averaged over positions (B,)."""
    return 1 - _per_image(F.cosine_similarity(prediction, truth, dim=1))


def hybrid(prediction: Tensor, truth: Tensor) -> Tensor:
    """0.9 cosine distance + 0.1 smooth L1 (AM-RADIO, arXiv 2312.06709), (B,)."""
    smooth = F.smooth_l1_loss(prediction, truth, reduction="none")
    return 0.9 * cosine_distance(prediction, truth) + 0.1 * _per_image(smooth)


def squared_angle(prediction: Tensor, truth: Tensor) -> Tensor:
    """Squared angle in rad^2 over the channels, averaged over positions (B,).

    By the half-angle's tangent, whose gradient stays finite where arccos' does not (Kahan).
    """
    u, v = F.normalize(prediction, dim=1), F.normalize(truth, dim=1)
    difference, total = (u - v).square().sum(1), (u + v).square().sum(1)
    angle = 2 * torch.atan2((difference + 1e-12).sqrt(), (total + 1e-12).sqrt())
    return _per_image(angle.square())


def _per_image(values: Tensor) -> Tensor:
    """(B, ...) to the means (B,)."""
    return values.reshape(len(values), -1).mean(1)


LOSSES: dict[str, Loss] = {
    "mse": squared_error,
    "cosine": cosine_distance,
    "hybrid": hybrid,
    "angle": squared_angle,
}


def angular_dispersion(truth: Tensor) -> float:
    """Mean squared angle in rad^2 between targets and their mean direction: how wide a teacher's cone is.

    C-RADIOv4 divides the squared angle by it, lest the teacher with the widest cone dominate.
    """
    tokens = truth if truth.ndim == 2 else truth.flatten(2).transpose(1, 2).flatten(0, 1)
    centre = F.normalize(tokens, dim=1).mean(0, keepdim=True)
    return float(squared_angle(centre.expand_as(tokens), tokens).mean())


_DISPERSION_IMAGES = 2048


class Comparison:
    """The losses of a recipe. `spaces` holds those that are not PHI-S, by "teacher/head"."""

    def __init__(self, targets: Targets, config: DistillConfig) -> None:
        self.weights = head_weights(targets.train, config.weights)
        self.spaces: dict[str, Space] = {}
        self._losses = {}
        self._divisors = dict.fromkeys(self.weights, 1.0)
        for key in self.weights:
            teacher, head = key.rsplit("/", 1)
            name = config.summary_loss if head == "summary" else config.spatial_loss
            # Directions are those of the teacher's own, uncentred features.
            kind = "raw" if name in DIRECTIONS else config.standardisation
            self._losses[key] = LOSSES[name]
            if kind != "phi_s":
                self.spaces[key] = SPACES[kind](getattr(targets.teachers[teacher], head))
            if name == "angle":
                some = torch.from_numpy(np.array(array_of(targets.train, key)[:_DISPERSION_IMAGES])).float()
                self._divisors[key] = angular_dispersion(self.spaces[key].enter(some))
            elif name == "mse" and key in self.spaces:
                self._divisors[key] = 1 / self.spaces[key].weight

    def __call__(
        self, predictions: Mapping[str, Mapping[str, Tensor]], truth: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """ "teacher/head" -> loss of each image (B,)."""
        losses = {}
        for teacher, heads in predictions.items():
            for head, prediction in heads.items():
                key = f"{teacher}/{head}"
                pair = prediction.float(), truth[key]
                if key in self.spaces:
                    pair = self.spaces[key].enter(pair[0]), self.spaces[key].enter(pair[1])
                losses[key] = self._losses[key](*pair) / self._divisors[key]
        return losses


def head_weights(split: SplitTargets, given: Mapping[str, float]) -> dict[str, float]:
    """Weight of every "teacher/head": the teacher's (1 where none is given), shared by its heads, times the head's."""
    weights = {}
    for teacher in split.spatial:
        heads = ["summary", "spatial"] if teacher in split.summary else ["spatial"]
        for head in heads:
            weights[f"{teacher}/{head}"] = given.get(teacher, 1.0) * given.get(f"{teacher}/{head}", 1.0) / len(heads)
    return weights


def array_of(split: SplitTargets, key: str) -> Any:
    """The stored targets of "teacher/head"."""
    teacher, head = key.rsplit("/", 1)
    return split.summary[teacher] if head == "summary" else split.spatial[teacher]
