"""Adaptor heads: from the student's features to one teacher's. Dropped after distillation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones import Features
from nas.distill.adaptor import mlp, module_name
from nas.distill.losses import Space


class HeadDims(NamedTuple):
    """Widths of one teacher's standardised targets; `summary` is 0 for a teacher without one (SAM)."""

    summary: int
    spatial: int


class TeacherHeads(nn.Module):
    """A summary head (where the teacher has a summary) and a spatial head for every teacher.

    Args:
        summary_dim, spatial_dim: the student's widths.
        teachers: teacher name -> widths of its targets.
        hidden: hidden width of every head.
        grid: side of the targets' spatial grid; the student's map is resized to it.
        spaces: "teacher/head" -> what the head's last layer works in, where that is not PHI-S.
    """

    def __init__(
        self,
        summary_dim: int,
        spatial_dim: int,
        teachers: Mapping[str, HeadDims],
        hidden: int,
        grid: int,
        spaces: Mapping[str, Space] | None = None,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.spaces = dict(spaces or {})
        self.names = tuple(teachers)  # a teacher's name may hold dots, a module's may not
        self.summary = nn.ModuleDict(
            {module_name(name): mlp(summary_dim, hidden, d.summary) for name, d in teachers.items() if d.summary}
        )
        self.spatial = nn.ModuleDict(
            {module_name(name): mlp(spatial_dim, hidden, d.spatial) for name, d in teachers.items()}
        )

    def forward(self, features: Features, teachers: Sequence[str] | None = None) -> dict[str, dict[str, Tensor]]:
        """PHI-S features of all or the named teachers: {"summary": (B, k), "spatial": (B, k, grid, grid)} each."""
        tokens = resize(features.spatial, self.grid).flatten(2).transpose(1, 2)  # (B, grid^2, C)
        predictions: dict[str, dict[str, Tensor]] = {}
        for name in self.names if teachers is None else teachers:
            key = module_name(name)
            made = {"spatial": self._to_phi_s(f"{name}/spatial", self._map(self.spatial[key](tokens)))}
            predictions[name] = (
                {"summary": self.summarise(features.summary, name), **made} if key in self.summary else made
            )
        return predictions

    def summarise(self, summary: Tensor, teacher: str) -> Tensor:
        """The student's summary (B, C) to PHI-S features (B, k) of a teacher that has one."""
        return self._to_phi_s(f"{teacher}/summary", self.summary[module_name(teacher)](summary))

    def _to_phi_s(self, key: str, values: Tensor) -> Tensor:
        return self.spaces[key].leave(values.float()) if key in self.spaces else values

    def _map(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(1, 2).reshape(len(tokens), -1, self.grid, self.grid)


def resize(spatial: Tensor, grid: int) -> Tensor:
    """(B, C, h, w) -> (B, C, grid, grid): averages where the map is larger, bilinear where it is smaller."""
    if spatial.shape[-2:] == (grid, grid):
        return spatial
    if min(spatial.shape[-2:]) >= grid:
        return F.adaptive_avg_pool2d(spatial, grid)
    return F.interpolate(spatial, size=(grid, grid), mode="bilinear", align_corners=False)


class Student(nn.Module):
    """A backbone with its heads: images to predictions of every teacher's targets."""

    def __init__(self, backbone: nn.Module, heads: TeacherHeads) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = heads

    def forward(self, images: Tensor, teachers: Sequence[str] | None = None) -> dict[str, dict[str, Tensor]]:
        """(B, 3, S, S) normalised images to the output of `TeacherHeads`."""
        features = self.backbone.encode(images)  # type: ignore[operator]
        predictions: dict[str, dict[str, Tensor]] = self.heads(features, teachers)
        return predictions


def normalise(images: Tensor) -> Tensor:
    """uint8 (B, 3, S, S) to channels-last float in about [-2, 2]: (x / 255 - 0.5) / 0.25, the students' convention."""
    return images.to(torch.float32, memory_format=torch.channels_last).sub_(127.5).div_(63.75)
