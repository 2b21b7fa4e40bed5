"""FasterViT's hierarchical attention: carrier tokens exchange information between windows. arXiv 2306.06189."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.layers.eradio_attention import PositionBias
from backbones.layers.positions import positions
from backbones.layers.swin import partition, unpartition
from backbones.layers.vit_layer import ViTLayer

SIDE = 2  # a window has SIDE x SIDE carriers


class CarrierBias(nn.Module):
    """Position bias among a window's tokens; carriers, which precede them, have none. (1, heads, N, N)."""

    def __init__(self, window: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.local = PositionBias(window, heads, hidden)

    def forward(self) -> Tensor:
        """Return the bias of carriers and tokens, (1, heads, N, N)."""
        return F.pad(self.local(), (SIDE**2, 0, SIDE**2, 0))


class PositionMlp(nn.Module):
    """Embedding of absolute positions by an MLP, so that a map may have any size. (B, C, H, W) -> (1, H, W, C)."""

    without_weight_decay = ("mlp",)

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings of all positions of a map, (1, H, W, C)."""
        rows, columns = (self._from_minus_1_to_1(x, axis) for axis in (2, 3))
        y: Tensor = self.mlp(torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)).unsqueeze(0)
        return y

    def _from_minus_1_to_1(self, x: Tensor, axis: int) -> Tensor:
        like = next(self.parameters())
        if torch.jit.is_tracing():  # type: ignore[attr-defined]  # a trace would keep device and type of its example
            steps = positions(x, axis).type_as(like)
            return 2 * steps / steps[-1:].clamp(min=1) - 1
        return torch.linspace(-1, 1, x.shape[axis], device=like.device, dtype=like.dtype)


class CarrierLayer(nn.Module):
    """Attention among all carriers of an image, then in each window with its carriers.

    (B, M, N, C) windows and (B, M, SIDE^2, C) carriers -> both.
    """

    def __init__(
        self, channels: int, hidden: int, heads: int, window: int, cpb_hidden: int, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.across = ViTLayer(channels, hidden, heads, drop_path=drop_path)
        self.within = ViTLayer(channels, hidden, heads, CarrierBias(window, heads, cpb_hidden), drop_path)

    def forward(self, tokens: Tensor, carriers: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens and carriers of the same shapes."""
        carriers = self.across(carriers.flatten(1, 2).unsqueeze(1)).view_as(carriers)
        both = self.within(torch.cat([carriers, tokens], 2))
        return both[:, :, SIDE**2 :], both[:, :, : SIDE**2]


class Carrier(nn.Module):
    """A whole stage, because its layers pass on their carriers. (B, C, H, W) -> same; `window` divides H and W.

    Carriers start as means of a depthwise convolution of the map; at the end they are added to their part of the map.
    Positions are embedded once, at the start, and not in each layer. `drop_path` has a rate for each layer.
    """

    def __init__(
        self, channels: int, hidden: int, heads: int, window: int, cpb_hidden: int, drop_path: Sequence[float]
    ) -> None:
        super().__init__()
        self.window = window
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.token_position = PositionMlp(channels, cpb_hidden)
        self.carrier_position = PositionMlp(channels, cpb_hidden)
        self.layers = nn.ModuleList(
            CarrierLayer(channels, hidden, heads, window, cpb_hidden, rate) for rate in drop_path
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the stage's map, (B, C, H, W) -> same."""
        h, w = x.shape[2:]
        size = (SIDE * h // self.window, SIDE * w // self.window)
        seeds = F.adaptive_avg_pool2d(self.conv(x), size)
        carriers = partition(seeds.permute(0, 2, 3, 1) + self.carrier_position(seeds), SIDE)
        tokens = partition(x.permute(0, 2, 3, 1), self.window)
        of_a_window = self.token_position(x[:, :, : self.window, : self.window])
        tokens = tokens + of_a_window.view(1, 1, -1, x.shape[1])
        for layer in self.layers:
            tokens, carriers = layer(tokens, carriers)
        spread = F.interpolate(unpartition(carriers, SIDE, False, *size).permute(0, 3, 1, 2), size=(h, w))
        return spread + unpartition(tokens, self.window, False, h, w).permute(0, 3, 1, 2)
