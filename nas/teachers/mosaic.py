"""Several small images as one large input, for teachers that were trained at a large size only (SAM: 1024 px)."""

from __future__ import annotations

import torch
from torch import Tensor


def tile(images: Tensor, side: int) -> Tensor:
    """Images (B, C, H, W) as mosaics (M, C, side H, side W) of side x side, row by row.

    The last mosaic is filled up with images of the batch from its start, which look more like images than grey does.
    """
    tiles = side * side
    count = -(-len(images) // tiles) * tiles
    filled = images[torch.arange(count, device=images.device) % len(images)] if count > len(images) else images
    _, channels, height, width = images.shape
    grid = filled.reshape(-1, side, side, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(-1, channels, side * height, side * width)


def cut(maps: Tensor, side: int, count: int) -> Tensor:
    """Inverse of `tile`, of maps (M, C, side h, side w): the first `count` tiles (count, C, h, w) in the same order."""
    _, channels, height, width = maps.shape
    grid = maps.reshape(-1, channels, side, height // side, side, width // side).permute(0, 2, 4, 1, 3, 5)
    return grid.reshape(-1, channels, height // side, width // side)[:count]
