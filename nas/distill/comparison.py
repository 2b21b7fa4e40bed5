"""Predictions against teachers: for every head the loss and the space it is taken in, as the recipe says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas.cache.targets import SplitTargets, Targets
from nas.config import DIRECTIONS, DistillConfig
from nas.distill.losses import LOSSES, SPACES, Space, angular_dispersion

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
