"""Adaptors from a student's features to a teacher's own. Exports copy this file and the modules that it imports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from nas.cache.grid import to_grid

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
        stride: of the student's map in px, see `map_stride`.
    """

    def __init__(
        self, summary: nn.Sequential | None, spatial: nn.Sequential, fingerprint: str, stride: int | None = GRID_PX
    ) -> None:
        super().__init__()
        self.summary, self.spatial, self.fingerprint, self.stride = summary, spatial, fingerprint, stride

    def forward(self, summary: Tensor, spatial: Tensor, images: Tensor) -> tuple[Tensor | None, Tensor]:
        """Map the student's (B, Cs) and (B, C, h, w) of images (B, 3, H, W) to the teacher's widths.

        The teacher's map has H / GRID_PX x W / GRID_PX cells.
        """
        mapped = self.spatial(on_grid(spatial, self.stride, images).movedim(1, -1)).movedim(-1, 1)
        return None if self.summary is None else self.summary(summary), mapped


def map_stride(spatial: Tensor, stride: int, images: Tensor) -> int | None:
    """Return the stride in px of a map (B, C, h, w) of images (B, 3, H, W) whose network declares `stride`.

    None where the map has other sides than H and W over the stride, rounded up: it covers the images in another way, as
    behind convolutions without padding, or where a network resizes its tokens.
    """
    sides = zip(spatial.shape[-2:], images.shape[-2:], strict=True)
    return stride if all(side == -(-px // stride) for side, px in sides) else None


def is_whole(stride: int | None) -> bool:
    """Return whether a stride divides GRID_PX or is a multiple of it: not behind patches of 14 px."""
    return stride is not None and (GRID_PX % stride == 0 or stride % GRID_PX == 0)


def on_grid(spatial: Tensor, stride: int | None, images: Tensor) -> Tensor:
    """Resize (B, C, h, w) of `map_stride` to the cells of GRID_PX that cover images (B, 3, H, W), as `to_grid` does.

    Where the ratio is whole, the factor is a constant: exporters cannot follow adaptive pooling, and a graph must not
    fix the size of the image. A map at stride 64 may reach beyond the image; what does is cut.
    """
    rows, columns = (side // GRID_PX for side in images.shape[-2:])
    if stride is None or not is_whole(stride):
        return to_grid(spatial, (rows, columns))
    if stride < GRID_PX:
        return F.avg_pool2d(spatial, GRID_PX // stride)
    if stride > GRID_PX:
        factor = float(stride // GRID_PX)
        spatial = F.interpolate(spatial, scale_factor=factor, mode="bilinear", align_corners=False)
    return spatial[..., :rows, :columns]


def build_adaptor(about: Mapping[str, Any]) -> Adaptor:
    """Build an adaptor, without its weights, from its description by `nas.distill.folded_heads.describe`.

    Raises:
        ValueError: the stride is not positive.
    """
    heads = {head: mlp(*about[head]) for head in ("summary", "spatial") if head in about}
    stride = None if about["stride"] is None else int(about["stride"])
    if stride is not None and stride < 1:
        raise ValueError(f"stride: {stride}: must be positive")
    return Adaptor(heads.get("summary"), heads["spatial"], str(about["fingerprint"]), stride)
