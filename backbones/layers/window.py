"""Attention on maps: E-RADIO's windowed block (arXiv 2312.06709), and attention over a whole map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.layers.conv import PreConv
from backbones.layers.eradio_attention import EradioLayer, Subsample


def split_windows(x: Tensor, window: int) -> Tensor:
    """Split (B, C, H, W) into (B * windows, window^2, C); H and W must be multiples of `window`."""
    b, c, h, w = x.shape
    tokens = x.permute(0, 2, 3, 1)
    if (h, w) != (window, window):
        tokens = tokens.reshape(b, h // window, window, w // window, window, c).transpose(2, 3)
    return tokens.reshape(-1, window * window, c)


def join_windows(tokens: Tensor, window: int, height: int, width: int, stride: Subsample = (1, 1)) -> Tensor:
    """Join the windows of a map of `height` x `width`, of which each `stride`-th row and column is left."""
    c, rows, columns = tokens.shape[-1], height // window, width // window
    tall, wide = window // stride[0], window // stride[1]
    if (rows, columns) == (1, 1):
        return tokens.view(-1, tall, wide, c).permute(0, 3, 1, 2)
    x = tokens.view(-1, rows, columns, tall, wide, c).transpose(2, 3)
    return x.reshape(-1, rows * tall, columns * wide, c).permute(0, 3, 1, 2)


def reflect_pad(x: Tensor, height: int, width: int) -> Tensor:
    """Pad the bottom and the right by reflection to `height` x `width`; return `x` itself if it has that size."""
    down, right = height - x.shape[2], width - x.shape[3]
    return F.pad(x, (0, right, 0, down), mode="reflect") if down or right else x


def subsample_map(x: Tensor, stride: Subsample) -> Tensor:
    """Return each `stride`-th row and column of a map (B, C, H, W), as a view."""
    return x[:, :, :: stride[0], :: stride[1]]


class WindowBlock(nn.Module):
    """One attention block of E-RADIO at one resolution. (B, C, H, W) -> (B, C, H, W).

    With a `stride`, only every such row and column of the result is returned; the others are not computed if the stride
    divides the window.

    Args:
        layer: attention and MLP.
        window: side of a window in tokens.
        pre_conv: applied to the full-resolution map first; None doubles the map, as the published network does.
        resample: (subsample, upsample) by an integer ratio; the block has no pre_conv then.
    """

    decides_by_size = True  # see `Backbone.traces_any_size`: a map may need padding, or be one window

    def __init__(
        self,
        layer: EradioLayer,
        window: int,
        pre_conv: PreConv | None = None,
        resample: tuple[nn.Module, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.window = window
        self.pre_conv = pre_conv
        self.subsample = resample[0] if resample else None
        self.upsample = resample[1] if resample else None

    def forward(self, x: Tensor, stride: Subsample = (1, 1)) -> Tensor:
        """Return the block's map; with a `stride`, only those rows and columns."""
        y = self._prepare(x)
        h, w = y.shape[2:]
        padded_h, padded_w = (-(-side // self.window) * self.window for side in (h, w))
        early = stride if self.upsample is None and not any(self.window % e for e in stride) else (1, 1)
        tokens = self.layer(split_windows(reflect_pad(y, padded_h, padded_w), self.window), early, x.shape[0])
        y = join_windows(tokens, self.window, padded_h, padded_w, early)[:, :, : -(-h // early[0]), : -(-w // early[1])]
        if self.upsample is not None:
            y = reflect_pad(self.upsample(y), *x.shape[2:])
        kept = y if early == stride else subsample_map(y, stride)
        # Under autocast the upsampling answers in a narrower type than that of maps from frozen norms.
        return torch.lerp(subsample_map(x, stride), kept.type_as(x), 0.5)

    def resize(self, window: int) -> None:
        """Change the window."""
        self.window = window
        assert self.layer.attention.position is not None
        self.layer.attention.position.resize(window)

    def _prepare(self, x: Tensor) -> Tensor:
        y: Tensor
        if self.subsample is not None:
            y = self.subsample(x)
        else:
            y = 2 * x if self.pre_conv is None else self.pre_conv(x)
        return y


class GlobalBlock(nn.Module):
    """Attention over the whole map, (B, C, H, W) -> same. Only the convolutions around it provide positions."""

    def __init__(self, layer: EradioLayer, pre_conv: PreConv | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.pre_conv = pre_conv

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map, (B, C, H, W) -> same."""
        if self.pre_conv is not None:
            x = self.pre_conv(x)
        b, c, h, w = x.shape
        tokens = x.permute(0, 2, 3, 1).reshape(b, h * w, c)
        y: Tensor = self.layer(tokens)
        return y.view(b, h, w, c).permute(0, 3, 1, 2)
