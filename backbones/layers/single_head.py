"""A block after SHViT's: attention of one head among some of the channels. arXiv 2401.16456."""

from __future__ import annotations

from typing import Self

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from backbones.layers.attention_kernel import attend
from backbones.layers.conv import ConvNorm, PreConv, relu
from backbones.layers.mlp import fold_norm_before


class SingleHeadAttention(nn.Module):
    """One head attends among the first `attended` channels, the others pass; one projection mixes all.

    (B, C, H, W) -> same. It differs from SHViT's in three ways: BatchNorm replaces GroupNorm before queries, keys and
    values, because it can be folded; no norm follows these; and there is no ReLU before the projection.

    key_width: channels of queries and keys; values have `attended`.
    """

    def __init__(self, channels: int, attended: int, key_width: int) -> None:
        super().__init__()
        self.split = attended, channels - attended
        self.parts = key_width, key_width, attended
        self.norm: nn.Module = nn.BatchNorm2d(attended, eps=1e-5)
        self.qkv = nn.Conv2d(attended, sum(self.parts), 1, bias=False)
        self.project = ConvNorm(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Attend among all positions of a map, (B, C, H, W) -> same."""
        first, rest = x.split(self.split, 1)
        tokens = self.qkv(self.norm(first)).flatten(2).transpose(1, 2).unsqueeze(1)  # (B, 1, H W, parts)
        q, k, v = tokens.split(self.parts, -1)
        y = attend(q, k, v, None).squeeze(1).transpose(1, 2).reshape(first.shape)
        out: Tensor = self.project(torch.cat([y, rest], 1))
        return out

    def fuse(self) -> Self:
        """Fold the norm into the convolution after it."""
        if not isinstance(self.norm, nn.Identity):
            self.qkv = fold_norm_before(self.norm, self.qkv)
            self.norm = nn.Identity()
        return self


class SingleHead(nn.Module):
    """Depthwise 3x3 convolution, attention of one head, MLP of 1x1 convolutions, each with a skip.

    (B, C, H, W) -> same.
    """

    def __init__(self, channels: int, hidden: int, attended: int, key_width: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.mix = PreConv(channels, channels)
        self.attention = SingleHeadAttention(channels, attended, key_width)
        self.mlp = nn.Sequential(ConvNorm(channels, hidden, 1, activation=relu), ConvNorm(hidden, channels, 1))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map, (B, C, H, W) -> same."""
        x = self.mix(x)
        x = x + self.drop_path(self.attention(x))
        y: Tensor = x + self.drop_path(self.mlp(x))
        return y
