"""Attention in windows and grids of any map, and Swin's block. arXiv 2103.14030."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.layers.eradio_attention import offset_index
from backbones.layers.positions import positions
from backbones.layers.vit_layer import ViTLayer


class TableBias(nn.Module):
    """A learned bias of attention logits for every relative offset, (1, heads, window^2, window^2).

    arXiv 2103.14030, equation 4.
    """

    without_weight_decay = ("table",)

    def __init__(self, window: int, heads: int) -> None:
        super().__init__()
        self.tokens = window * window
        self.table: nn.Parameter | None = nn.Parameter(0.02 * torch.randn(heads, (2 * window - 1) ** 2))
        self.index: Tensor
        self.constant: Tensor | None
        self.register_buffer("index", offset_index(window), persistent=False)
        self.register_buffer("constant", None, persistent=False)

    def forward(self) -> Tensor:
        """Return the bias, (1, heads, window^2, window^2)."""
        if self.constant is not None:
            return self.constant.unsqueeze(0)
        assert self.table is not None
        return self.table.index_select(1, self.index).view(1, -1, self.tokens, self.tokens)

    def fuse(self) -> Self:
        """Keep the bias as a constant in place of the table; without a batch axis, as in `PositionBias.fuse`."""
        with torch.no_grad():
            self.constant = self().squeeze(0).contiguous()
        self.table = None
        return self


class PartitionedLayer(nn.Module):
    """A transformer layer in groups of window x window tokens of a map. (B, C, H, W) -> same, any H and W.

    A map that the window doesn't divide is padded at the bottom and the right; padding is masked. `shift` and `grid`
    exclude each other.

    Args:
        channels: width C.
        hidden: width inside the MLP.
        heads: number of heads.
        window: side of a group in tokens.
        drop_path: probability to drop a branch for a sample in training.
        shift: the windows start this many tokens later; tokens beyond the border wrap around and are masked there.
        grid: groups consist of tokens that are H / window and W / window apart instead of neighbors.
    """

    decides_by_size = True  # see `Backbone.traces_any_size`: a map may need padding and masks, or be one window

    def __init__(
        self,
        channels: int,
        hidden: int,
        heads: int,
        window: int,
        drop_path: float = 0.0,
        shift: int = 0,
        grid: bool = False,
    ) -> None:
        super().__init__()
        self.layer = ViTLayer(channels, hidden, heads, TableBias(window, heads), drop_path)
        self.window, self.shift, self.grid = window, shift, grid

    def forward(self, x: Tensor) -> Tensor:
        """Attend within groups of a map, (B, C, H, W) -> same."""
        tokens = x.permute(0, 2, 3, 1)
        h, w = tokens.shape[1:3]
        padded = [-(-side // self.window) * self.window for side in (h, w)]
        shifts = [self.shift if side > self.window else 0 for side in padded]  # a single window needs no shift
        labels = None
        if padded != [h, w] or any(shifts):
            tokens = F.pad(tokens, (0, 0, 0, padded[1] - w, 0, padded[0] - h))
            labels = partition(regions((h, w), tokens, shifts), self.window, self.grid)[0, :, :, 0]
            tokens = tokens.roll([-s for s in shifts], (1, 2))
        groups = self.layer(partition(tokens, self.window, self.grid), labels)
        tokens = unpartition(groups, self.window, self.grid, *padded)
        if labels is not None:
            tokens = tokens.roll(shifts, (1, 2))[:, :h, :w]
        return tokens.permute(0, 3, 1, 2)


def regions(size: Sequence[int], padded: Tensor, shifts: Sequence[int]) -> Tensor:
    """Label the positions of a map that was padded from `size` and is to be rolled back by `shifts`.

    Positions with different labels must not attend to each other. (B, H, W, C) -> (1, H, W, 1).
    """
    rows, columns = (axis_labels(size[i], positions(padded, i + 1), shifts[i]) for i in (0, 1))
    return (4 * rows.unsqueeze(1) + columns).view(1, *padded.shape[1:3], 1)


def axis_labels(side: int, position: Tensor, shift: int) -> Tensor:
    """Label the positions 0, 1, ... of an axis that was padded from `side` and is to be rolled back by `shift`.

    Bit 0: the position will wrap around. Bit 1: it is padding.
    """
    padded = position.shape[0]
    position = position + shift
    return (position >= padded).int() + 2 * (position % padded >= side).int()


def partition(x: Tensor, window: int | tuple[int, int], grid: bool = False) -> Tensor:
    """Split (B, H, W, C) into (B, groups, window^2, C); H and W must be multiples of `window`, a side or two."""
    b, h, w, c = x.shape
    rows, columns = _sides(window)
    if grid:
        x = x.reshape(b, rows, h // rows, columns, w // columns, c).permute(0, 2, 4, 1, 3, 5)
    else:
        x = x.reshape(b, h // rows, rows, w // columns, columns, c).transpose(2, 3)
    return x.reshape(b, -1, rows * columns, c)


def unpartition(groups: Tensor, window: int | tuple[int, int], grid: bool, height: int, width: int) -> Tensor:
    """Join the groups of `partition` to a map of `height` x `width`, (B, H, W, C)."""
    b, _, _, c = groups.shape
    rows, columns = _sides(window)
    x = groups.view(b, height // rows, width // columns, rows, columns, c)
    x = x.permute(0, 3, 1, 4, 2, 5) if grid else x.transpose(2, 3)
    return x.reshape(b, height, width, c)


def _sides(window: int | tuple[int, int]) -> tuple[int, int]:
    return (window, window) if isinstance(window, int) else window
