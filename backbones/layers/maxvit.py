"""MaxViT's block. arXiv 2204.01697."""

from __future__ import annotations

from torch import Tensor, nn

from backbones.layers.conv import MBConv
from backbones.layers.swin import PartitionedLayer


class MaxViT(nn.Module):
    """MBConv, attention in windows, attention in a grid across the map. (B, C, H, W) -> same.

    hidden: of the MBConv and of both MLPs. squeeze: width of the MBConv's squeeze-excitation; None: none.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        heads: int,
        window: int,
        drop_path: float = 0.0,
        squeeze: int | None = None,
    ) -> None:
        super().__init__()
        self.conv = MBConv(channels, hidden, drop_path, squeeze)
        self.block = PartitionedLayer(channels, hidden, heads, window, drop_path)
        self.grid = PartitionedLayer(channels, hidden, heads, window, drop_path, grid=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map, (B, C, H, W) -> same."""
        y: Tensor = self.grid(self.block(self.conv(x)))
        return y
