"""The plain vision transformer, arXiv 2010.11929.

Its options are windows (ViTDet, arXiv 2203.16527), registers (arXiv 2309.16588), and other positions than learned ones:
a convolution (arXiv 2102.10882) or rotations of queries and keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn import functional as F

from backbones.layers.positions import positions
from backbones.layers.stage import Stage, join
from backbones.layers.swin import partition, regions, unpartition
from backbones.layers.vit_layer import ViTLayer

ROTARY_BASE = 100.0  # ratio of the fastest and the slowest turns, about
Tokens = tuple[Tensor, Tensor | None]  # a map (B, C, H, W) and the registers (B, R, C)


class PositionEmbedding(nn.Module):
    """Learned position embeddings of a grid x grid map, interpolated (bilinear) to the map's size."""

    without_weight_decay = ("table",)

    def __init__(self, channels: int, grid: int) -> None:
        super().__init__()
        self.table = nn.Parameter(0.02 * torch.randn(1, channels, grid, grid))

    def forward(self, x: Tensor) -> Tensor:
        """Add the embeddings to a map, (B, C, H, W) -> same."""
        table: Tensor = self.table
        # A graph of images of any size cannot decide, and a trace would keep the decision of its example.
        # Interpolation to the grid's own size changes nothing.
        tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined]
        sides = zip(table.shape[2:], x.shape[2:], strict=True)
        if tracing or not all(statically_known_true(own == side) for own, side in sides):
            table = F.interpolate(table, size=x.shape[2:], mode="bilinear")
        return x + table.type_as(x)


class TokenEmbedding(nn.Module):
    """Gives the tokens of a map their positions, and adds the learned registers, which have none."""

    without_weight_decay = ("registers",)

    def __init__(self, position: nn.Module, channels: int, registers: int | None) -> None:
        super().__init__()
        self.position = position
        self.registers = None if registers is None else nn.Parameter(0.02 * torch.randn(1, registers, channels))

    def forward(self, x: Tensor) -> Tokens:
        """Return the map with positions, (B, C, H, W), and the registers, (B, R, C), or None."""
        y: Tensor = self.position(x)
        return y, None if self.registers is None else self.registers.type_as(x).expand(x.shape[0], -1, -1)


class ViT(nn.Module):
    """A transformer layer over the whole map and the registers, or in windows of the map.

    A windowed layer passes registers on unchanged, as they belong to no window. They could only join each of them, as
    other tokens do in a global layer, or pass the layer's MLP alone, which moves nothing between tokens.

    Windows have `window` tokens a side at most: as few as possible divide a side, and they are as small as these allow.
    14 tokens become two windows of 7 with `window` 8, and 15 tokens two of 8, where the padding of one is masked. The
    layer's parameters fit any window, so `Backbone.change_resolution` leaves it as it is.

    Args:
        layer: attention and MLP.
        window: the largest side of a window; None: the layer is global.
    """

    def __init__(self, layer: ViTLayer, window: int | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.window = window
        self.decides_by_size = window is not None  # see `Backbone.traces_any_size`: maps may need padding and masks

    def forward(self, x: Tensor, registers: Tensor | None = None, rotation: Tensor | None = None) -> Tokens:
        """Return map and registers of the same shapes.

        Args:
            x: the map, (B, C, H, W).
            registers: (B, R, C), or None.
            rotation: of queries and keys, see `rotary_embedding`.
        """
        if self.window is None:
            return self._globally(x, registers, rotation)
        return self._in_windows(x, self.window, rotation), registers

    def _globally(self, x: Tensor, registers: Tensor | None, rotation: Tensor | None) -> Tokens:
        b, c, h, w = x.shape
        tokens = x.permute(0, 2, 3, 1).reshape(b, h * w, c)
        turns = None if rotation is None else rotation.flatten(1, 2)
        if registers is None:
            y: Tensor = self.layer(tokens.unsqueeze(1), rotation=turns)
            return y.view(b, h, w, c).permute(0, 3, 1, 2), None
        count = registers.shape[1]
        if turns is not None:
            sines, cosines = turns.chunk(2, -1)
            turns = torch.cat([F.pad(sines, (0, 0, count, 0)), F.pad(cosines, (0, 0, count, 0), value=1.0)], -1)
        y = self.layer(torch.cat([registers, tokens], 1).unsqueeze(1), rotation=turns).squeeze(1)
        registers, tokens = y.split([count, h * w], 1)
        return tokens.view(b, h, w, c).permute(0, 3, 1, 2), registers

    def _in_windows(self, x: Tensor, largest: int, rotation: Tensor | None) -> Tensor:
        tokens = x.permute(0, 2, 3, 1)
        h, w = tokens.shape[1:3]
        window = fitted_window(h, largest), fitted_window(w, largest)
        padded = tuple(-(-side // part) * part for side, part in zip((h, w), window, strict=True))
        labels = None
        if padded != (h, w):
            margin = 0, 0, 0, padded[1] - w, 0, padded[0] - h
            tokens, rotation = F.pad(tokens, margin), None if rotation is None else F.pad(rotation, margin)
            labels = partition(regions((h, w), tokens, (0, 0)), window)[0, :, :, 0]
        turns = None if rotation is None else partition(rotation, window)[0]
        groups = self.layer(partition(tokens, window), labels, turns)
        return unpartition(groups, window, False, *padded)[:, :h, :w].permute(0, 3, 1, 2)


def fitted_window(side: int, largest: int) -> int:
    """Return the side of the windows that a side of a map is divided into."""
    return -(-side // -(-side // largest))


def rotary_embedding(x: Tensor, head_width: int) -> Tensor:
    """Return the rotation of a head's queries and keys on a map, (B, C, H, W) -> (1, H, W, 2 * head_width).

    The channels are sines, then cosines.

    arXiv 2104.09864, by rows and columns. Positions are from -1 to 1 on each axis, as in DINOv3 (arXiv 2508.10104), so
    that the rotations of a map's corners are the same at any resolution.
    """
    count = head_width // 4
    bands = 2 * math.pi * ROTARY_BASE ** -(positions(x, 1, count) / count)
    rows, columns = ((2 * positions(x, axis) + 1) / x.shape[axis] - 1 for axis in (2, 3))
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)
    angles = (grid.unsqueeze(-1) * bands).flatten(2)
    sines, cosines = angles.sin(), angles.cos()
    return torch.cat([sines, sines, cosines, cosines], -1).unsqueeze(0)


class ViTStage(Stage):
    """A stage of ViT layers behind a `TokenEmbedding`. (B, C, H, W) -> same; registers end with the stage.

    head_width: channels of a head, for rotary positions; None: without them.
    """

    def __init__(self, blocks: Sequence[nn.Module], head_width: int | None = None) -> None:
        super().__init__(blocks)
        self.head_width = head_width

    def forward(self, x: Tensor, with_token: bool = False) -> Any:
        """Run all blocks.

        Args:
            x: a map, (B, C, H, W).
            with_token: also return the first register.

        Returns:
            The map (B, C, H, W), or the map and the register (B, C).
        """
        maps: list[Tensor] = []
        tokens: list[Tensor] = []
        rotation = None
        if self.head_width is not None:
            rotation = rotary_embedding(x, self.head_width)
        for part in self.parts(x):
            y, registers = self.call(self.blocks[0], part)
            for layer in self.blocks[1:]:
                y, registers = self.call(layer, y, registers, rotation)
            maps.append(y)
            if with_token:
                tokens.append(registers[:, 0])
        return (join(maps), join(tokens)) if with_token else join(maps)
