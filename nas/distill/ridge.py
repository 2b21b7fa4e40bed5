"""Ridge regression in closed form, from samples that come in pieces: a probe without noise of its own."""

from __future__ import annotations

import torch
from torch import Tensor

PENALTY = 1e-2  # against channels of variance 1
CONSTANT = 1e-9  # a channel whose variance is below this share of its mean square says nothing


class Ridge:
    """Least squares from features (N, C) to values (N, k), penalised on standardised features.

    So neither a channel's scale nor its mean changes what comes out. Sums are float64, and all that is kept.
    """

    def __init__(self) -> None:
        self._moments = torch.zeros(())  # of (features, 1)
        self._products = torch.zeros(())

    def add(self, features: Tensor, values: Tensor, weights: Tensor | None = None) -> None:
        """More samples, perhaps with weights (N,)."""
        x, y = with_bias(features), values.double()
        weighted = x if weights is None else x * weights.double()[:, None]
        self._moments = self._moments + weighted.T @ x
        self._products = self._products + weighted.T @ y

    def solve(self) -> Tensor:
        """Weights (C + 1, k) in float64, the bias last: values are about ``with_bias(features) @ weights``."""
        count = self._moments[-1, -1]
        means = self._moments / count
        mean, square = means[-1, :-1], means.diagonal()[:-1]
        varies = square - mean**2 > CONSTANT * square
        scale = torch.where(varies, (square - mean**2).clamp(min=0).sqrt(), 1.0)
        covariance = (means[:-1, :-1] - torch.outer(mean, mean)) / torch.outer(scale, scale)
        covariance = torch.where(torch.outer(varies, varies), covariance, 0.0)
        wanted = self._products / count
        right = (wanted[:-1] - torch.outer(mean, wanted[-1])) / scale[:, None]
        right = torch.where(varies[:, None], right, 0.0)
        penalty = PENALTY * torch.eye(len(covariance), dtype=covariance.dtype)
        slopes = torch.linalg.solve(covariance + penalty, right) / scale[:, None]
        return torch.cat([slopes, (wanted[-1] - mean @ slopes)[None]])


def with_bias(features: Tensor) -> Tensor:
    """(N, C) as (N, C + 1) in float64, the last column 1."""
    return torch.cat([features.double(), torch.ones(len(features), 1, dtype=torch.float64)], dim=1)
