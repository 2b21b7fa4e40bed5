"""The plain vision transformer. arXiv 2010.11929."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.layers.transformer import BiasedLayer


class PositionEmbedding(nn.Module):
    """Learned position embeddings of a grid x grid map, interpolated (bilinear) to the map's size."""

    def __init__(self, channels: int, grid: int) -> None:
        super().__init__()
        self.table = nn.Parameter(0.02 * torch.randn(1, channels, grid, grid))

    def forward(self, x: Tensor) -> Tensor:
        """Add the embeddings to a map, (B, C, H, W) -> same."""
        table: Tensor = self.table
        if table.shape[2:] != x.shape[2:]:
            table = F.interpolate(table, size=x.shape[2:], mode="bilinear")
        return x + table.to(x.dtype)


class ViT(nn.Module):
    """A transformer layer over the whole map. (B, C, H, W) -> same."""

    def __init__(self, channels: int, hidden: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.layer = BiasedLayer(channels, hidden, heads, drop_path=drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map, (B, C, H, W) -> same."""
        b, c, h, w = x.shape
        y: Tensor = self.layer(x.permute(0, 2, 3, 1).reshape(b, 1, h * w, c))
        return y.view(b, h, w, c).permute(0, 3, 1, 2)
