"""EfficientNetV2's block for the early stages."""

from __future__ import annotations

from timm.layers import DropPath
from torch import Tensor, nn

from backbones.layers.conv import ConvNorm, silu


class FusedMBConv(nn.Module):
    """MBConv with one dense 3x3 convolution in place of the first 1x1 and the depthwise 3x3. (B, C, H, W) -> same.

    arXiv 2104.00298: with few channels, dense convolutions use a GPU better.
    """

    def __init__(self, channels: int, hidden: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.expand = ConvNorm(channels, hidden, 3, activation=silu)
        self.project = ConvNorm(hidden, channels, 1)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map, (B, C, H, W) -> same."""
        y: Tensor = self.drop_path(self.project(self.expand(x)))
        return y + x
