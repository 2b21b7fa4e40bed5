"""RepViT's block, whose depthwise convolutions become one for deployment."""

from __future__ import annotations

from typing import Self

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.layers.conv import ConvNorm
from backbones.layers.squeeze import squeeze_excite


class MergedDepthwise(nn.Module):
    """x -> Conv-BN (x) + Conv-BN 1x1 (x) + x, both depthwise. One convolution once it is fused.

    kernel: side of the first convolution's kernel.
    """

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = ConvNorm(channels, channels, kernel, groups=channels)
        self.point: ConvNorm | None = ConvNorm(channels, channels, 1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mixed map, (B, C, H, W) -> same."""
        y: Tensor = self.conv(x)
        return y if self.point is None else y + self.point(x) + x

    def fuse(self) -> Self:
        """Add the 1x1 convolution and the skip to the center of the larger kernel."""
        if self.point is not None:
            conv, point = self.conv.fuse().conv, self.point.fuse().conv
            assert conv.bias is not None
            assert point.bias is not None
            with torch.no_grad():
                center = conv.kernel_size[0] // 2
                conv.weight[:, :, center, center] += point.weight[:, :, 0, 0] + 1
                conv.bias += point.bias
            self.point = None
        return self


class RepDW(nn.Module):
    """Merged depthwise convolutions, then an MLP of 1x1 convolutions with a skip. (B, C, H, W) -> same.

    RepViT, arXiv 2307.09283, and FastViT, arXiv 2303.14189.

    squeeze: width of a squeeze-excitation after the depthwise convolutions; None: none.
    kernel: side of the merged depthwise kernel, 3 in RepViT.
    """

    def __init__(
        self, channels: int, hidden: int, drop_path: float = 0.0, squeeze: int | None = None, kernel: int = 3
    ) -> None:
        super().__init__()
        self.mix = MergedDepthwise(channels, kernel)
        self.squeeze: nn.Module = squeeze_excite(channels, squeeze, F.relu)
        self.expand = ConvNorm(channels, hidden, 1, activation=nn.GELU)
        self.project = ConvNorm(hidden, channels, 1)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map, (B, C, H, W) -> same."""
        x = self.squeeze(self.mix(x))
        y: Tensor = self.drop_path(self.project(self.expand(x)))
        return x + y
