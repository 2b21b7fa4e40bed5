"""The neck: fuses the maps of several stages at the resolution of the first of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn
from torch.nn import functional as F

from backbones.layers.conv import fold_norm
from backbones.layers.fp32_fallback import fp32_fallback


class NeckBranch(nn.Module):
    """Depthwise 3x3 convolution, BatchNorm, 1x1 convolution. (B, C, H, W) -> (B, width, H, W)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm: nn.Module = nn.BatchNorm2d(channels, eps=1e-5)
        self.pointwise = nn.Conv2d(channels, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Project a map, (B, C, H, W) -> (B, width, H, W)."""
        y: Tensor = self.pointwise(self.norm(self.depthwise(x)))
        return y

    def fuse(self) -> Self:
        """Fold the normalization into the depthwise convolution."""
        if not isinstance(self.norm, nn.Identity):
            self.depthwise = fold_norm(self.depthwise, self.norm)
            self.norm = nn.Identity()
        return self


class Neck(nn.Module):
    """Sum of one branch per map, each map first upsampled (nearest) to the first one's size.

    Maps (B, C_i, H / 2^i, W / 2^i), sides rounded up, become one map (B, width, H, W). The first map passes unchanged
    if it has `width` channels.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Identity() if i == 0 and c == width else NeckBranch(c, width) for i, c in enumerate(channels)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the fused map, (B, width, H, W)."""
        h, w = maps[0].shape[2:]
        total: Tensor = fp32_fallback(self.branches[0], maps[0])
        for i, (branch, x) in enumerate(zip(self.branches, maps, strict=True)):
            if i:
                x = F.interpolate(x, scale_factor=float(2**i), mode="nearest")[:, :, :h, :w]
                total = total + fp32_fallback(branch, x)
        return total
