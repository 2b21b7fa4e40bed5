"""E-RADIO's attention over tokens, with SwinV2's continuous relative position bias, and its transformer layer."""

from __future__ import annotations

import math
from typing import Self

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.layers.attention_kernel import attend
from backbones.layers.mlp import Mlp, SwiGlu

Subsample = tuple[int, int]  # strides of the rows and the columns to keep


class PositionBias(nn.Module):
    """Bias of attention logits from relative offsets, (1, heads, window^2, window^2). arXiv 2111.09883, equation 4."""

    without_weight_decay = ("mlp",)

    def __init__(self, window: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, heads, bias=False))
        self.offsets: Tensor
        self.index: Tensor
        self.constant: Tensor | None
        self.register_buffer("offsets", log_offsets(window), persistent=False)
        self.register_buffer("index", offset_index(window), persistent=False)
        self.register_buffer("constant", None, persistent=False)

    def forward(self) -> Tensor:
        """Return the bias, (1, heads, window^2, window^2)."""
        if self.constant is not None:
            return self.constant.unsqueeze(0)
        tokens = math.isqrt(len(self.index))
        table: Tensor = 16 * torch.sigmoid(self.mlp(self.offsets))
        return table.t().index_select(1, self.index).view(1, -1, tokens, tokens)

    def resize(self, window: int) -> None:
        """Change the window; the MLP stays valid, because its inputs are normalized offsets."""
        self.offsets, self.index = log_offsets(window).to(self.offsets), offset_index(window).to(self.index)
        if self.constant is not None:
            self.constant = None
            self.fuse()

    def fuse(self) -> Self:
        """Keep the bias as a constant, (heads, window^2, window^2).

        The constant has no batch axis: `model.to(memory_format=channels_last)` would permute a tensor of four axes, and
        attention would copy it at every call.
        """
        with torch.no_grad():
            self.constant = self().squeeze(0).contiguous()
        return self


def log_offsets(window: int) -> Tensor:
    """Return all relative offsets of a window, scaled to [-8, 8] and on a log scale: ((2 window - 1)^2, 2)."""
    steps = torch.arange(1 - window, window, dtype=torch.float32) * (8 / max(window - 1, 1))
    steps = torch.sign(steps) * torch.log2(steps.abs() + 1) / math.log2(8)
    return torch.cartesian_prod(steps, steps)


def offset_index(window: int) -> Tensor:
    """Return the row of `log_offsets` for each pair (query, key) of tokens, row-major: (window^4,)."""
    side = torch.arange(window)
    position = ((2 * window - 1) * side[:, None] + side).flatten()
    return (position[:, None] - position + 2 * window * (window - 1)).flatten()


class Attention(nn.Module):
    """Multi-head self-attention, (B, N, C) -> (B, N, C).

    With a `stride`, only every such row and column of tokens is a query; all tokens are keys and values. The N tokens
    must form a square then.

    Args:
        channels: width C.
        heads: number of heads.
        window: side of the N = window^2 tokens for the position bias; None: no position bias, any N.
        cpb_hidden: width of the position-bias MLP.
        qkv_bias: whether queries, keys and values have a bias; the other linear layers have none.
    """

    def __init__(
        self, channels: int, heads: int, window: int | None = None, cpb_hidden: int = 512, qkv_bias: bool = False
    ) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels, bias=False)
        self.position = None if window is None else PositionBias(window, heads, cpb_hidden)

    def forward(self, x: Tensor, stride: Subsample = (1, 1)) -> Tensor:
        """Attend among tokens (B, N, C); with a `stride`, return only those tokens."""
        bias = None if self.position is None else self.position()
        if stride == (1, 1):
            q, k, v = self._by_head(self.qkv(x))
        else:
            weights = self.qkv.weight.split([x.shape[-1], 2 * x.shape[-1]])
            biases = (None, None) if self.qkv.bias is None else self.qkv.bias.split([x.shape[-1], 2 * x.shape[-1]])
            (q,) = self._by_head(F.linear(subsample_tokens(x, stride), weights[0], biases[0]))
            k, v = self._by_head(F.linear(x, weights[1], biases[1]))
            bias = None if bias is None else subsample_tokens(bias.flatten(0, 1), stride).unsqueeze(0)
        y = attend(q, k, v, bias).transpose(1, 2).flatten(2)
        out: Tensor = self.proj(y)
        return out

    def _by_head(self, x: Tensor) -> tuple[Tensor, ...]:
        """Split (B, N, parts * C) into parts of (B, heads, N, C / heads)."""
        b, n, _ = x.shape
        return x.view(b, n, -1, self.heads, self.qkv.in_features // self.heads).permute(2, 0, 3, 1, 4).unbind(0)


class EradioLayer(nn.Module):
    """Pre-norm attention and MLP, each with a skip. (B, N, C) -> (B, N, C); fewer tokens with a `stride`.

    Args:
        channels: width C.
        attention: the attention of the layer.
        mlp: the MLP of the layer.
        layer_scale: initial value of the per-channel factors on both branches; None: no factors. arXiv 2103.17239.
        drop_path: probability to drop a branch for an image in training. arXiv 1603.09382.
    """

    def __init__(
        self,
        channels: int,
        attention: Attention,
        mlp: Mlp | SwiGlu,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-5)
        self.attention = attention
        self.norm2 = nn.LayerNorm(channels, eps=1e-5)
        self.mlp = mlp
        scale = None if layer_scale is None else torch.full((channels,), layer_scale)
        self.gamma1 = None if scale is None else nn.Parameter(scale)
        self.gamma2 = None if scale is None else nn.Parameter(scale.clone())
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, stride: Subsample = (1, 1), images: int | None = None) -> Tensor:
        """Return tokens of the same width; with a `stride`, only those tokens.

        Args:
            x: tokens, (B, N, C).
            stride: of the rows and columns to return.
            images: number of images, of which each has as many of the B groups, in order; None: B.
        """
        attended = scaled(self.attention(self.norm1(x), stride), self.gamma1)
        x = subsample_tokens(x, stride) + self._dropped(attended, images)
        return x + self._dropped(scaled(self.mlp(self.norm2(x)), self.gamma2), images)

    def _dropped(self, branch: Tensor, images: int | None) -> Tensor:
        """Drop the branch of whole images, in training."""
        if images is None or not self.training:
            y: Tensor = self.drop_path(branch)
            return y
        by_image: Tensor = branch.unflatten(0, (images, -1))  # type: ignore[no-untyped-call]
        return self.drop_path(by_image).flatten(0, 1)  # type: ignore[no-any-return]

    def fuse(self) -> Self:
        """Fold the layer scale into the linears before it."""
        fold_scale(self.gamma1, self.attention.proj)
        fold_scale(self.gamma2, self.mlp.fc2)
        self.gamma1 = self.gamma2 = None
        return self


def subsample_tokens(x: Tensor, stride: Subsample) -> Tensor:
    """Return each `stride`-th row and column of tokens on a square, (B, N, C) -> (B, N / (rows * columns), C)."""
    if stride == (1, 1):
        return x
    side = math.isqrt(x.shape[1])
    square: Tensor = x.unflatten(1, (side, side))  # type: ignore[no-untyped-call]
    return square[:, :: stride[0], :: stride[1]].flatten(1, 2)


def scaled(x: Tensor, gamma: Tensor | None) -> Tensor:
    """Return `x` times a factor per channel (last axis), or `x` itself; in the type of `x`, also under autocast."""
    return x if gamma is None else x * gamma.type_as(x)


def fold_scale(gamma: Tensor | None, linear: nn.Linear) -> None:
    """Fold `scaled` into the linear before it, in place."""
    if gamma is not None:
        with torch.no_grad():
            linear.weight.mul_(gamma.unsqueeze(1))
            if linear.bias is not None:
                linear.bias.mul_(gamma)
