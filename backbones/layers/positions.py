"""Positions along the sides of a map."""

from __future__ import annotations

import torch
from torch import Tensor


def positions(x: Tensor, axis: int, count: int | None = None) -> Tensor:
    """Return 0, 1, 2, ... for an axis of `x`, all of it or the first `count`, on the device of `x`.

    A trace counts elements of `x`, because it would keep the device of its example as that of `torch.arange`.
    """
    if not torch.jit.is_tracing():  # type: ignore[attr-defined]
        return torch.arange(x.shape[axis] if count is None else count, device=x.device)
    line = x.movedim(axis, -1)
    while line.ndim > 1:
        line = line[0]
    return (line[:count].isnan() | 1).cumsum(0) - 1
