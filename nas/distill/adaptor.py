"""What leads from a student's features to a teacher's own. Imports torch alone: exports carry this file with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

GRID_PX = 16  # of the image, that a cell of the teachers' grid stands for


def mlp(width_in: int, hidden: int, width_out: int) -> nn.Sequential:
    """Two linear layers with LayerNorm and GELU between them, on the last dimension. Source: AM-RADIO."""
    return nn.Sequential(nn.Linear(width_in, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, width_out))


def module_name(teacher: str) -> str:
    """A teacher's name as PyTorch allows it for a module."""
    return teacher.replace(".", "_")


class Adaptor(nn.Module):
    """A student's features to one teacher's own: `summary` is None for a teacher without one.

    Both heads are MLPs on the last dimension; `fingerprint` is of the teacher's weights and preprocessing. `stride` is
    of the student's map, a power of two in px: the heads were trained on the map resized to a cell every GRID_PX.
    """

    def __init__(
        self, summary: nn.Sequential | None, spatial: nn.Sequential, fingerprint: str, stride: int = GRID_PX
    ) -> None:
        super().__init__()
        self.summary, self.spatial, self.fingerprint, self.stride = summary, spatial, fingerprint, stride

    def forward(self, summary: Tensor, spatial: Tensor) -> tuple[Tensor | None, Tensor]:
        """(B, Cs) and (B, C, h, w) of the student, any h and w, to the teacher's widths, at a stride of GRID_PX."""
        mapped = self.spatial(on_grid(spatial, self.stride).movedim(1, -1)).movedim(-1, 1)
        return None if self.summary is None else self.summary(summary), mapped


def on_grid(spatial: Tensor, stride: int) -> Tensor:
    """(B, C, h, w) at a stride in px, resized to GRID_PX: as `nas.distill.heads.resize`, but by a constant factor.

    A graph has no size of the image to keep, and exporters can't follow adaptive pooling.
    """
    if stride < GRID_PX:
        return F.avg_pool2d(spatial, GRID_PX // stride)
    if stride > GRID_PX:
        return F.interpolate(spatial, scale_factor=float(stride // GRID_PX), mode="bilinear", align_corners=False)
    return spatial


def described(about: Mapping[str, Any]) -> Adaptor:
    """The adaptor, its weights yet to be filled in, that `nas.distill.adaptors.describe` tells of.

    Where no stride is told, as until 2026-11-25, the map is taken as it is. ValueError where it can't be one.
    """
    heads = {head: mlp(*about[head]) for head in ("summary", "spatial") if head in about}
    stride = int(about.get("stride", GRID_PX))
    if stride < 1 or (GRID_PX % stride and stride % GRID_PX):
        raise ValueError(f"stride: {stride}: must divide {GRID_PX} or be a multiple of it")
    return Adaptor(heads.get("summary"), heads["spatial"], str(about["fingerprint"]), stride)
