"""Squeeze-excitation: scale each channel by a function of the whole map."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F


class SqueezeExcite(nn.Module):
    """Gates from the map's mean: linear to `hidden`, activation, linear back, sigmoid. (B, C, H, W) -> same.

    arXiv 1709.01507. The activation is ReLU there and SiLU in EfficientNets. Linear layers are initialized with small
    weights, so that all gates start at about one half. The initialization of convolutions would be larger, and random
    gates would suppress whole channels.
    """

    def __init__(self, channels: int, hidden: int, activation: Callable[[Tensor], Tensor] = F.silu) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, hidden)
        self.expand = nn.Linear(hidden, channels)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of a map, (B, C, H, W) -> same."""
        gate: Tensor = self.expand(self.activation(self.reduce(x.mean((2, 3)))))
        return x * gate.sigmoid()[:, :, None, None]


def squeeze_excite(
    channels: int, hidden: int | None, activation: Callable[[Tensor], Tensor] = F.silu
) -> SqueezeExcite | nn.Identity:
    """Build squeeze-excitation through `hidden` channels, or an identity where `hidden` is None."""
    return nn.Identity() if hidden is None else SqueezeExcite(channels, hidden, activation)
