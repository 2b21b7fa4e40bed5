"""Adaptors from a student's features to a teacher's own. Imports torch alone, because exports copy this file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

GRID_PX = 16  # side of a cell of the teachers' grid, in pixels of the image


def mlp(width_in: int, hidden: int, width_out: int) -> nn.Sequential:
    """Build two linear layers with LayerNorm and GELU between them, on the last dimension. Source: AM-RADIO."""
    return nn.Sequential(nn.Linear(width_in, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, width_out))


def module_name(teacher: str) -> str:
    """Return a teacher's name as PyTorch allows it for a module."""
    return teacher.replace(".", "_")


class Adaptor(nn.Module):
    """The map from a student's features to one teacher's own.

    Args:
        summary: MLP on the last dimension; None for a teacher without a summary.
        spatial: MLP on the last dimension, trained on the student's map resized to a cell every GRID_PX.
        fingerprint: of the teacher's weights and preprocessing.
        stride: of the student's map in px, a power of two.
    """

    def __init__(
        self, summary: nn.Sequential | None, spatial: nn.Sequential, fingerprint: str, stride: int = GRID_PX
    ) -> None:
        super().__init__()
        self.summary, self.spatial, self.fingerprint, self.stride = summary, spatial, fingerprint, stride

    def forward(self, summary: Tensor, spatial: Tensor) -> tuple[Tensor | None, Tensor]:
        """Map the student's (B, Cs) and (B, C, h, w), any h and w, to the teacher's widths at a stride of GRID_PX.

        A map at stride 64 may reach beyond the image; `within_image` cuts it.
        """
        mapped = self.spatial(on_grid(spatial, self.stride).movedim(1, -1)).movedim(-1, 1)
        return None if self.summary is None else self.summary(summary), mapped


def on_grid(spatial: Tensor, stride: int) -> Tensor:
    """Resize (B, C, h, w) from `stride` px to GRID_PX, as `nas.cache.grid.to_grid` does, but by a constant factor.

    Exporters cannot follow adaptive pooling, and a graph must not fix the size of the image.
    """
    if stride < GRID_PX:
        return F.avg_pool2d(spatial, GRID_PX // stride)
    if stride > GRID_PX:
        return F.interpolate(spatial, scale_factor=float(stride // GRID_PX), mode="bilinear", align_corners=False)
    return spatial


def within_image(spatial: Tensor, images: Tensor) -> Tensor:
    """Return the cells of GRID_PX of a map (B, C, h, w) that cover images (B, 3, H, W)."""
    return spatial[..., : images.shape[-2] // GRID_PX, : images.shape[-1] // GRID_PX]


def build_adaptor(about: Mapping[str, Any]) -> Adaptor:
    """Build an adaptor, without its weights, from its description by `nas.distill.folded_heads.describe`.

    Raises:
        ValueError: the stride neither divides GRID_PX nor is a multiple of it.
    """
    heads = {head: mlp(*about[head]) for head in ("summary", "spatial") if head in about}
    stride = int(about["stride"])
    if stride < 1 or (GRID_PX % stride and stride % GRID_PX):
        raise ValueError(f"stride: {stride}: must divide {GRID_PX} or be a multiple of it")
    return Adaptor(heads.get("summary"), heads["spatial"], str(about["fingerprint"]), stride)
