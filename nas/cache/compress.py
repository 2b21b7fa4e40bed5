"""Raw features to what is stored and back, batch by batch, on the device where the features are."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.cache.codecs import CODECS, Codes
from nas.cache.statistics import Fitted


class Compressed(NamedTuple):
    """Codes (N, k) or (N, k, g, g); how many were clipped; the sum over vectors of the cosine to the raw features."""

    codes: Codes
    clipped: int
    cosine: float


class Compressor:
    """Features (N, C) or (N, C, g, g) to codes in `storage`."""

    def __init__(self, fitted: Fitted, storage: str, device: torch.device) -> None:
        standardiser = fitted.standardiser
        self.mean, self.forward, self.inverse = (
            torch.from_numpy(matrix).to(device, torch.float32)
            for matrix in (standardiser.mean, standardiser.forward, standardiser.inverse)
        )
        self.codec = CODECS[storage](fitted.largest)

    def __call__(self, features: Tensor) -> Compressed:
        features = features.to(self.mean.device)
        targets = (features.movedim(1, -1) - self.mean) @ self.forward.T
        values = targets.movedim(-1, 1).contiguous().cpu().numpy()
        codes = self.codec.encode(values)
        cosine = F.cosine_similarity(self.restored(codes), features, dim=1).sum()
        return Compressed(codes, self.codec.clipped(values), float(cosine))

    def restored(self, codes: Codes) -> Tensor:
        """Features (N, C) or (N, C, g, g) of the codes."""
        values = torch.from_numpy(self.codec.decode(codes)).to(self.mean.device)
        return (values.movedim(1, -1) @ self.inverse.T + self.mean).movedim(-1, 1)


def to_grid(spatial: Tensor, grid: int) -> Tensor:
    """Maps (B, C, h, w) as (B, C, grid, grid): averaged over areas when larger, bilinear when smaller."""
    if spatial.shape[-1] >= grid:
        return F.adaptive_avg_pool2d(spatial, grid)
    return F.interpolate(spatial, (grid, grid), mode="bilinear")
