"""Changes of resolution: stems, downsampling between stages (stride 2), resampling inside mr_window."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from backbones.layers.conv import ConvNorm, relu, silu


def conv_stem(hidden: int, width: int) -> nn.Module:
    """Build E-RADIO's stem: two 3x3 convolutions of stride 2 with ReLU. (B, 3, H, W) -> (B, width, H/4, W/4)."""
    return nn.Sequential(ConvNorm(3, hidden, 3, 2, activation=relu), ConvNorm(hidden, width, 3, 2, activation=relu))


def overlap_stem(width: int) -> nn.Module:
    """Build a stem of overlapping patches: one 7x7 convolution of stride 4 with ReLU."""
    return ConvNorm(3, width, 7, 4, activation=relu)


def patch_stem(width: int) -> nn.Module:
    """Build a stem of 4x4 patches, as in Swin and ConvNeXt."""
    return ConvNorm(3, width, 4, 4)


def conv16_stem(width: int) -> nn.Module:
    """Build LeViT's stem: four 3x3 convolutions of stride 2 with ReLU between them. arXiv 2104.01136."""
    widths = (3, *(max(width // ratio, 1) for ratio in (8, 4, 2)), width)
    acts = (relu, relu, relu, None)
    return nn.Sequential(
        *(ConvNorm(a, b, 3, 2, activation=act) for (a, b), act in zip(pairwise(widths), acts, strict=True))
    )


def conv_downsampling(channels: int, width: int) -> nn.Module:
    """Build E-RADIO's downsampling: Conv-BN 3x3 of stride 2. (B, channels, H, W) -> (B, width, H/2, W/2)."""
    return ConvNorm(channels, width, 3, 2)


def patch_downsampling(channels: int, width: int) -> nn.Module:
    """Build a Conv-BN 2x2 of stride 2, which equals pixel-unshuffle and a 1x1 convolution."""
    return ConvNorm(channels, width, 2, 2)


def pool_downsampling(channels: int, width: int) -> nn.Module:
    """Build the cheapest downsampling: 2x2 average pooling, then Conv-BN 1x1."""
    return nn.Sequential(nn.AvgPool2d(2), ConvNorm(channels, width, 1))


def mbconv_downsampling(channels: int, width: int, hidden: int) -> nn.Module:
    """Build the first block of EfficientViT-L's late stages, arXiv 2205.14756: an MBConv of stride 2 without a skip.

    1x1 up to `hidden`, depthwise 3x3 of stride 2, 1x1 down. (B, channels, H, W) -> (B, width, ceil(H/2), ceil(W/2)).
    """
    return nn.Sequential(
        ConvNorm(channels, hidden, 1, activation=silu),
        ConvNorm(hidden, hidden, 3, 2, groups=hidden, activation=silu),
        ConvNorm(hidden, width, 1),
    )


def fused_mbconv_downsampling(channels: int, width: int, hidden: int) -> nn.Module:
    """Build the first block of EfficientNetV2's early stages, arXiv 2104.00298: dense 3x3 of stride 2, 1x1 down.

    (B, channels, H, W) -> (B, width, ceil(H/2), ceil(W/2)).
    """
    return nn.Sequential(ConvNorm(channels, hidden, 3, 2, activation=silu), ConvNorm(hidden, width, 1))


class ToEven(nn.Module):
    """Repeat the last row and column of a map whose sides are odd. (B, C, H, W) -> the same with even sides."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the enlarged map."""
        h, w = x.shape[2:]
        return F.pad(x, (0, w % 2, 0, h % 2), mode="replicate")


def conv_resample(channels: int, ratio: int) -> tuple[nn.Module, nn.Module]:
    """Build (subsample, upsample) by convolution and transposed convolution, kernel and stride `ratio`, with bias."""
    return nn.Conv2d(channels, channels, ratio, ratio), nn.ConvTranspose2d(channels, channels, ratio, ratio)


def pool_resample(channels: int, ratio: int) -> tuple[nn.Module, nn.Module]:
    """Build (subsample, upsample) by average pooling and nearest neighbor, with a Conv-BN 1x1 each."""
    return nn.Sequential(nn.AvgPool2d(ratio), ConvNorm(channels, channels, 1)), PoolUpsample(channels, ratio)


class PoolUpsample(nn.Module):
    """Nearest-neighbor upsampling and Conv-BN 1x1. (B, C, H, W) -> (B, C, H r, W r).

    The convolution comes first, because the result is the same at a fraction of the work; copies of pixels don't change
    the batch's mean and variance.
    """

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.conv = ConvNorm(channels, channels, 1)
        self.ratio = ratio

    def forward(self, x: Tensor) -> Tensor:
        """Return the enlarged map, (B, C, H r, W r)."""
        return F.interpolate(self.conv(x), scale_factor=float(self.ratio), mode="nearest")
