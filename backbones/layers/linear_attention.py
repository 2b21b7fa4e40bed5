"""EfficientViT's block: attention that is linear in the number of tokens. arXiv 2205.14756."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from backbones.layers.conv import ConvNorm, MBConv

EPSILON = 1e-5


class MultiScaleAttention(nn.Module):
    """ReLU attention over tokens at two scales: relu(Q) (relu(K)^T V) / (relu(Q) sum relu(K)). (B, C, H, W) -> same.

    The second scale's Q, K and V are the first's after a depthwise 5x5 convolution and a 1x1 convolution within each of
    them and each head. Each scale has `heads` heads; one projection merges the outputs of both.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.aggregate = nn.Sequential(
            nn.Conv2d(3 * channels, 3 * channels, 5, padding=2, groups=3 * channels, bias=False),
            nn.Conv2d(3 * channels, 3 * channels, 1, groups=3 * heads, bias=False),
        )
        self.project = ConvNorm(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Attend among all positions of a map, (B, C, H, W) -> same."""
        b, c, h, w = x.shape
        fine = self.qkv(x)
        both = torch.cat([fine, self.aggregate(fine)], 1).permute(0, 2, 3, 1)
        # Channels of a scale are ordered by head, then q/k/v, so that one view splits them; the groups fit this order.
        q, k, v = both.reshape(b, h * w, 2 * self.heads, 3, c // self.heads).transpose(1, 2).unbind(3)
        tokens = relu_attention(q, k, v).transpose(1, 2).reshape(b, h, w, 2 * c)
        y: Tensor = self.project(tokens.permute(0, 3, 1, 2))
        return y


def relu_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return linear attention of (B, heads, N, width) tensors with ReLU as kernel.

    Computed in fp32, because sums over N overflow fp16.
    """
    with full_precision(q.device.type):
        queries, keys = q.float().relu(), k.float().relu()
        context = keys.transpose(-1, -2) @ v.float()
        weights = queries @ keys.sum(-2).unsqueeze(-1)
        return ((queries @ context) / (weights + EPSILON)).type_as(q)


def full_precision(device_type: str) -> AbstractContextManager[object]:
    """Return a context without autocast, on devices that have it."""
    return torch.autocast(device_type, enabled=False) if torch.amp.is_autocast_available(device_type) else nullcontext()


class LinearAttention(nn.Module):
    """Multi-scale linear attention with a skip, then an MBConv as its MLP. (B, C, H, W) -> same."""

    def __init__(self, channels: int, hidden: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.attention = MultiScaleAttention(channels, heads)
        self.mlp = MBConv(channels, hidden, drop_path)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map, (B, C, H, W) -> same."""
        y: Tensor = self.mlp(x + self.drop_path(self.attention(x)))
        return y
