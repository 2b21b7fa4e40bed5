"""Adaptor heads: from the student's features to one teacher's. Dropped after distillation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones import Features


class HeadDims(NamedTuple):
    """Widths of one teacher's standardised targets."""

    summary: int
    spatial: int


def mlp(width_in: int, hidden: int, width_out: int) -> nn.Sequential:
    """Two linear layers with LayerNorm and GELU between them, on the last dimension. Source: AM-RADIO."""
    return nn.Sequential(nn.Linear(width_in, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, width_out))


class TeacherHeads(nn.Module):
    """A summary head and a spatial head for every teacher.

    Args:
        summary_dim, spatial_dim: the student's widths.
        teachers: teacher name -> widths of its targets.
        hidden: hidden width of every head.
        grid: side of the targets' spatial grid; the student's map is resized to it.
    """

    def __init__(
        self, summary_dim: int, spatial_dim: int, teachers: Mapping[str, HeadDims], hidden: int, grid: int
    ) -> None:
        super().__init__()
        self.grid = grid
        self.summary = nn.ModuleDict({name: mlp(summary_dim, hidden, d.summary) for name, d in teachers.items()})
        self.spatial = nn.ModuleDict({name: mlp(spatial_dim, hidden, d.spatial) for name, d in teachers.items()})

    def forward(self, features: Features) -> dict[str, dict[str, Tensor]]:
        """teacher -> {"summary": (B, k), "spatial": (B, k, grid, grid)}."""
        tokens = resize(features.spatial, self.grid).flatten(2).transpose(1, 2)  # (B, grid^2, C)
        return {
            name: {"summary": self.summary[name](features.summary), "spatial": self._map(head(tokens))}
            for name, head in self.spatial.items()
        }

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

    def forward(self, images: Tensor) -> dict[str, dict[str, Tensor]]:
        """(B, 3, S, S) normalised images to the output of `TeacherHeads`."""
        predictions: dict[str, dict[str, Tensor]] = self.heads(self.backbone.encode(images))  # type: ignore[operator]
        return predictions


def normalise(images: Tensor) -> Tensor:
    """uint8 (B, 3, S, S) to channels-last float in about [-2, 2]: (x / 255 - 0.5) / 0.25, the students' convention."""
    return images.to(torch.float32, memory_format=torch.channels_last).sub_(127.5).div_(63.75)
