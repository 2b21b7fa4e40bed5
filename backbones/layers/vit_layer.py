"""The transformer layer of ViT and related networks: biases in all linear layers, and optional attention masks."""

from __future__ import annotations

from typing import Self

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.layers.eradio_attention import fold_scale, scaled
from backbones.layers.mlp import SwiGlu


class ViTAttention(nn.Module):
    """Multi-head self-attention within each of M groups of N tokens. (B, M, N, C) -> same. arXiv 2010.11929.

    `position` returns a bias of the logits, (1, heads, N, N); None: attention ignores positions.
    """

    def __init__(self, channels: int, heads: int, position: nn.Module | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.position = position

    def forward(self, x: Tensor, regions: Tensor | None = None, rotation: Tensor | None = None) -> Tensor:
        """Attend within groups.

        Args:
            x: tokens, (B, M, N, C).
            regions: labels, (M, N); tokens attend to tokens with the same label only. None: to their whole group.
            rotation: of queries and keys, (M, N, 2 * C / heads): sines, then cosines.
        """
        b, m, n, c = x.shape
        q, k, v = self.qkv(x).view(b, m, n, 3, self.heads, c // self.heads).unbind(3)
        if rotation is not None:
            sines, cosines = rotation.unsqueeze(2).chunk(2, -1)
            q, k = (rotated(part, sines, cosines) for part in (q, k))
        bias = None if self.position is None else self.position().type_as(q)
        if regions is None:
            q, k, v = (part.flatten(0, 1).transpose(1, 2) for part in (q, k, v))
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)
        else:
            # Groups and heads share one axis, so that one mask serves every image of the batch.
            bias = q.new_zeros(1, self.heads, n, n) if bias is None else bias
            q, k, v = (part.transpose(2, 3).flatten(1, 2) for part in (q, k, v))
            apart = (regions.unsqueeze(2) != regions.unsqueeze(1)).unsqueeze(1)
            mask = bias.masked_fill(apart, float("-inf")).view(1, m * self.heads, n, n)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            y = y.view(b, m, self.heads, n, c // self.heads).transpose(2, 3)
        out: Tensor = self.proj(y.reshape(b, m, n, c))
        return out


def rotated(x: Tensor, sines: Tensor, cosines: Tensor) -> Tensor:
    """Turn each pair of channels, i and i + D / 2, by an angle. (..., D) -> same. arXiv 2104.09864.

    Products and sums are in the wider type of `x` and the angles' sines and cosines, (..., D); the result is in that of
    `x`.
    """
    first, second = x.chunk(2, -1)
    return (x * cosines + torch.cat([-second, first], -1) * sines).type_as(x)


class ViTLayer(nn.Module):
    """Pre-norm attention and MLP, each with a skip. (B, M, N, C) -> same. arXiv 2010.11929.

    Args:
        channels: width C.
        hidden: width inside the MLP.
        heads: number of heads.
        position: bias of the attention, see `ViTAttention`.
        drop_path: probability to drop a branch for a sample in training.
        gated: whether the MLP is SwiGLU in place of Linear, GELU, Linear.
        layer_scale: initial value of the per-channel factors on both branches; None: no factors. arXiv 2103.17239.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        heads: int,
        position: nn.Module | None = None,
        drop_path: float = 0.0,
        gated: bool = False,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-5)
        self.attention = ViTAttention(channels, heads, position)
        self.norm2 = nn.LayerNorm(channels, eps=1e-5)
        self.mlp: SwiGlu | nn.Sequential
        if gated:
            self.mlp = SwiGlu(channels, hidden)
        else:
            self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))
        scale = None if layer_scale is None else torch.full((channels,), layer_scale)
        self.gamma1 = None if scale is None else nn.Parameter(scale)
        self.gamma2 = None if scale is None else nn.Parameter(scale.clone())
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, regions: Tensor | None = None, rotation: Tensor | None = None) -> Tensor:
        """Return tokens of the same shape; for `regions` and `rotation` see `ViTAttention.forward`."""
        x = x + self.drop_path(scaled(self.attention(self.norm1(x), regions, rotation), self.gamma1))
        y: Tensor = x + self.drop_path(scaled(self.mlp(self.norm2(x)), self.gamma2))
        return y

    def fuse(self) -> Self:
        """Fold the layer scale into the linears before it."""
        last = self.mlp.fc2 if isinstance(self.mlp, SwiGlu) else self.mlp[-1]
        assert isinstance(last, nn.Linear)
        fold_scale(self.gamma1, self.attention.proj)
        fold_scale(self.gamma2, last)
        self.gamma1 = self.gamma2 = None
        return self
