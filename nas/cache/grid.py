"""Resize feature maps to the grid of the spatial targets."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def to_grid(spatial: Tensor, grid: int | tuple[int, int]) -> Tensor:
    """Resize maps (B, C, h, w) to (B, C, rows, columns): larger ones are averaged over areas, smaller ones bilinear.

    Args:
        spatial: The maps.
        grid: Rows and columns, or their number where they are as many.
    """
    cells = (grid, grid) if isinstance(grid, int) else grid
    sides = tuple(zip(spatial.shape[-2:], cells, strict=True))
    if all(side == count for side, count in sides):
        return spatial
    if any(side < count for side, count in sides):
        return F.interpolate(spatial, cells, mode="bilinear")
    if all(takes_whole_tokens(side, count) for side, count in sides):
        return F.adaptive_avg_pool2d(spatial, cells)
    rows, columns = (area_weights(side, count).to(spatial) for side, count in sides)
    return rows @ spatial @ columns.T


def takes_whole_tokens(side: int, grid: int) -> bool:
    """Tell whether `to_grid` cuts no token of maps of this side: the ratio is whole, or they are smaller."""
    return side < grid or side % grid == 0


def area_weights(side: int, grid: int) -> Tensor:
    """Return the weights (grid, side), in float64, of a line's tokens in the averages over its cells.

    A token counts by its share in the cell's area. Where a boundary cuts a token, the token's values are taken to vary
    linearly, with the slope of its neighbors, because the mean of a part of it lies off its center: with constant
    values, cells would lie up to a twentieth of a cell off their places at 16 tokens to 14 cells. The cells keep the
    mean of the tokens. Source: the linear reconstruction of van Leer (1977), as in conservative remapping.
    """
    tokens = torch.eye(side, dtype=torch.float64)
    boundaries = torch.arange(grid + 1, dtype=torch.float64) * side / grid
    cut = boundaries.long().clamp(max=side - 1)
    part = (boundaries - cut)[:, None]  # of the token that the boundary cuts
    integral = torch.ones_like(tokens).tril(-1)[cut] + part * tokens[cut]
    integral -= part * (1 - part) / 2 * torch.gradient(tokens, dim=0)[0][cut]
    return integral.diff(dim=0) * grid / side
