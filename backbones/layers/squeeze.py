"""Squeeze-excitation: what the whole map says scales each channel."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F


class SqueezeExcite(nn.Module):
    """Gates from the mean map: 1x1 down to `hidden`, activation, 1x1 up, sigmoid. (B, C, H, W) -> same.

    arXiv 1709.01507. activation: ReLU there, SiLU in EfficientNets.
    """

    def __init__(self, channels: int, hidden: int, activation: Callable[[Tensor], Tensor] = F.silu) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.expand(self.activation(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


def squeeze_excite(
    channels: int, hidden: int | None, activation: Callable[[Tensor], Tensor] = F.silu
) -> SqueezeExcite | nn.Identity:
    """Squeeze-excitation through `hidden` channels, or nothing where `hidden` is None."""
    return nn.Identity() if hidden is None else SqueezeExcite(channels, hidden, activation)
