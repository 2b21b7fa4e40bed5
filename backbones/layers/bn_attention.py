"""LeViT's attention with narrow keys, as a block and as a downsampling. arXiv 2104.01136.

BatchNorm follows every linear layer, in place of LayerNorm before it, so that deployed models have no norms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn import functional as F

from backbones.layers.attention_kernel import attend
from backbones.layers.conv import ConvNorm, hardswish
from backbones.layers.positions import positions

VALUE_RATIO = 2  # channels of a head's values / of its keys
SHRINKING_VALUE_RATIO = 4  # the same where the map shrinks, because each output stands for four tokens
MAX_CONSTANT_GRID = 32  # side of a map whose bias a deployed module keeps: 4 MB a head


class _KeptBias(NamedTuple):
    """A bias that was computed from a table: for a map's height and width, at a version of the table."""

    table: Tensor
    of: tuple[int, int, int]
    bias: Tensor


class OffsetBias(nn.Module):
    """A learned bias of attention logits for every pair of absolute row and column offsets, at any map size.

    Equation 1 of arXiv 2104.01136. The offsets of a grid x grid map are learned; those of another map are interpolated
    (bilinear) such that no offset stays none and the largest stays the largest.

    Args:
        grid: side of the map whose offsets are learned.
        heads: number of heads.
        stride: every such row and column of tokens is a query; all tokens are keys.
    """

    without_weight_decay = ("table",)

    def __init__(self, grid: int, heads: int, stride: int = 1) -> None:
        super().__init__()
        self.grid, self.stride = grid, stride
        self.table = nn.Parameter(0.02 * torch.randn(heads, grid, grid))
        self.constant: Tensor | None
        self.register_buffer("constant", None, persistent=False)
        self.deployed = False
        self._kept: _KeptBias | None = None

    def forward(self, height: int, width: int) -> Tensor:
        """Return the bias for a map of `height` x `width` tokens, (1, heads, queries, keys)."""
        # A graph of images of any size cannot decide, and a trace would keep the decision of its example.
        # Interpolation to the grid's own size changes nothing.
        learned = not torch.jit.is_tracing() and all(  # type: ignore[attr-defined]
            statically_known_true(side == self.grid) for side in (height, width)
        )
        if self.constant is not None and learned:
            return self.constant.unsqueeze(0)
        if not self._may_keep() or height * width > MAX_CONSTANT_GRID**2:
            return self._bias(height, width, learned)
        of = (height, width, self.table._version)
        kept = self._kept
        if kept is None or kept.of != of or kept.table is not self.table:
            with torch.inference_mode(False), torch.no_grad():  # autograd refuses tensors of inference mode
                kept = self._kept = _KeptBias(self.table, of, self._bias(height, width, learned).contiguous())
        return kept.bias

    def _may_keep(self) -> bool:
        """Whether the bias of the last map serves the next one of its size: in eager calls of fixed weights.

        What compiles, exports or traces this module computes the bias in its graph; so does a captured CUDA graph,
        which would read a bias that a later call replaces.
        """
        table = self.table
        return (
            self.deployed
            and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()  # type: ignore[attr-defined]
            and type(table) is nn.Parameter  # no stand-in of a tracer, no weights of `torch.func.functional_call`
            and not table.is_inference()  # such a tensor does not count its changes
            and not (table.requires_grad and torch.is_grad_enabled())
            and not (table.is_cuda and torch.cuda.is_current_stream_capturing())
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Forget the kept bias where tensors change their device or type."""
        self._kept = None
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy, without the kept bias: a copied table counts its changes from 0."""
        return {**super().__getstate__(), "_kept": None}

    def _bias(self, height: int, width: int, learned: bool) -> Tensor:
        """Compute the bias of a map from the table, which is of its size if `learned`."""
        table: Tensor = self.table
        if not learned:
            size = (height, width)
            table = F.interpolate(table.unsqueeze(0), size=size, mode="bilinear", align_corners=True).squeeze(0)
        rows, columns = (self._offsets(table, axis) for axis in (1, 2))
        bias = table.index_select(1, rows.flatten()).index_select(2, columns.flatten())
        by_axis = bias.view(-1, *rows.shape, *columns.shape)  # heads, query row, key row, query column, key column
        return by_axis.transpose(2, 3).reshape(1, -1, rows.shape[0] * columns.shape[0], height * width)

    def _offsets(self, table: Tensor, axis: int) -> Tensor:
        """Return the absolute offsets along an axis of the map's table, (queries, keys)."""
        position = positions(table, axis)
        return (position[:: self.stride, None] - position).abs()

    def fuse(self) -> Self:
        """Keep the bias of the grid as a constant, and that of the last map of another size until the table changes.

        The constant has no batch axis, as in `PositionBias.fuse`.
        """
        if self.grid <= MAX_CONSTANT_GRID:
            with torch.no_grad():
                self.constant = self(self.grid, self.grid).squeeze(0).contiguous()
        self.deployed = True
        return self


class NarrowAttention(nn.Module):
    """Attention whose queries and keys have a width of their own. (B, C, H, W) -> same.

    Args:
        channels: width C.
        heads: number of heads; heads x key_width need not be C.
        key_width: channels of a head's queries and keys; its values have `VALUE_RATIO` times as many.
        grid: see `OffsetBias`.
    """

    def __init__(self, channels: int, heads: int, key_width: int, grid: int) -> None:
        super().__init__()
        self.heads, self.parts = heads, (key_width, key_width, VALUE_RATIO * key_width)
        self.qkv = ConvNorm(channels, heads * sum(self.parts), 1)
        self.position = OffsetBias(grid, heads)
        self.project = ConvNorm(heads * VALUE_RATIO * key_width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Attend among all positions of a map, (B, C, H, W) -> same."""
        h, w = x.shape[2:]
        q, k, v = by_head(self.qkv(x), self.heads).split(self.parts, -1)
        y: Tensor = self.project(activated_map(attend(q, k, v, self.position(h, w)), h, w))
        return y


class ShrinkingAttention(nn.Module):
    """Attention from every second row and column of tokens to all. (B, C, H, W) -> (B, width, ceil(H/2), ceil(W/2)).

    Args:
        channels: width C.
        width: channels of the result.
        heads: number of heads.
        key_width: channels of a head's queries and keys; its values have `SHRINKING_VALUE_RATIO` times as many.
        grid: see `OffsetBias`.
    """

    def __init__(self, channels: int, width: int, heads: int, key_width: int, grid: int) -> None:
        super().__init__()
        self.heads, self.parts = heads, (key_width, SHRINKING_VALUE_RATIO * key_width)
        self.q = ConvNorm(channels, heads * key_width, 1, 2)
        self.kv = ConvNorm(channels, heads * sum(self.parts), 1)
        self.position = OffsetBias(grid, heads, 2)
        self.project = ConvNorm(heads * SHRINKING_VALUE_RATIO * key_width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the smaller map, (B, width, ceil(H/2), ceil(W/2))."""
        queries = self.q(x)
        k, v = by_head(self.kv(x), self.heads).split(self.parts, -1)
        attended = attend(by_head(queries, self.heads), k, v, self.position(*x.shape[2:]))
        y: Tensor = self.project(activated_map(attended, *queries.shape[2:]))
        return y


class BnAttention(nn.Module):
    """Attention with narrow keys, then an MLP of 1x1 convolutions with Hardswish, each with a skip.

    (B, C, H, W) -> same.
    """

    def __init__(
        self, channels: int, hidden: int, heads: int, key_width: int, grid: int, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.attention = NarrowAttention(channels, heads, key_width, grid)
        self.mlp = _mlp(channels, hidden)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map, (B, C, H, W) -> same."""
        x = x + self.drop_path(self.attention(x))
        y: Tensor = x + self.drop_path(self.mlp(x))
        return y


class AttentionDownsampling(nn.Module):
    """Shrinking attention without a skip, then an MLP of expansion 2 with one.

    (B, C, H, W) -> (B, width, ceil(H/2), ceil(W/2)). For the arguments see `ShrinkingAttention`.
    """

    def __init__(self, channels: int, width: int, heads: int, key_width: int, grid: int) -> None:
        super().__init__()
        self.attention = ShrinkingAttention(channels, width, heads, key_width, grid)
        self.mlp = _mlp(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the smaller map, (B, width, ceil(H/2), ceil(W/2))."""
        x = self.attention(x)
        y: Tensor = x + self.mlp(x)
        return y


def _mlp(channels: int, hidden: int) -> nn.Module:
    return nn.Sequential(ConvNorm(channels, hidden, 1, activation=hardswish), ConvNorm(hidden, channels, 1))


def by_head(x: Tensor, heads: int) -> Tensor:
    """Return the tokens of a map by head, (B, heads * D, H, W) -> (B, heads, H W, D)."""
    tokens: Tensor = x.flatten(2).unflatten(1, (heads, -1))  # type: ignore[no-untyped-call]
    return tokens.transpose(2, 3)


def activated_map(x: Tensor, height: int, width: int) -> Tensor:
    """Return Hardswish of the tokens of all heads as a map, (B, heads, H W, D) -> (B, heads * D, H, W)."""
    tokens = F.hardswish(x.transpose(1, 2).flatten(2))  # in this order, the map is in channels-last memory
    return tokens.transpose(1, 2).unflatten(2, (height, width))  # type: ignore[no-untyped-call, no-any-return]
