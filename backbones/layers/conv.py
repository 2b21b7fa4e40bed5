"""Convolution with normalization, and the convolutional blocks, which map (B, C, H, W) to (B, C, H, W)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from backbones.layers.fp32_fallback import fp32_fallback
from backbones.layers.squeeze import squeeze_excite

Activation = Callable[[], nn.Module]


def silu() -> nn.Module:
    """Return a SiLU that overwrites its input, which is safe because BatchNorm's backward doesn't read its output."""
    return nn.SiLU(inplace=True)


def relu() -> nn.Module:
    """Return a ReLU that overwrites its input."""
    return nn.ReLU(inplace=True)


def hardswish() -> nn.Module:
    """Return a Hardswish that overwrites its input."""
    return nn.Hardswish(inplace=True)


class ConvNorm(nn.Module):
    """Bias-free convolution, BatchNorm, optional activation. (B, C, H, W) -> (B, width, ceil(H/s), ceil(W/s))."""

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        activation: Activation | None = None,
    ) -> None:
        super().__init__()
        # Kernels that tile the map (kernel = stride) need no padding.
        padding = 0 if kernel == stride else kernel // 2
        self.conv = nn.Conv2d(channels, width, kernel, stride, padding, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(width, eps=1e-5)
        self.act = activation() if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Apply convolution, normalization and activation."""
        y: Tensor = self.act(self.norm(fp32_fallback(self.conv, x)))
        return y

    def fuse(self) -> Self:
        """Fold the normalization into the convolution."""
        if not isinstance(self.norm, nn.Identity):
            self.conv = fold_norm(self.conv, self.norm)
            self.norm = nn.Identity()
        return self


def fold_norm(conv: nn.Conv2d, norm: nn.Module) -> nn.Conv2d:
    """Return a convolution equal to ``norm(conv(x))``, both in eval mode.

    The norm is a BatchNorm, or what became of one: timm makes it synchronized (``nn.SyncBatchNorm``) or frozen
    (torchvision's ``FrozenBatchNorm2d``), which are no subclasses of it but have the same tensors.
    """
    return fuse_conv_bn_eval(conv, norm)  # type: ignore[arg-type]


class PreConv(nn.Module):
    """x -> Conv-BN 3x3 (x) + x: adds position information for attention. groups = channels: depthwise; 1: dense."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.conv = ConvNorm(channels, channels, 3, groups=groups)
        self.skip = True

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map, (B, C, H, W) -> same."""
        y: Tensor = self.conv(x)
        return y + x if self.skip else y

    def fuse(self) -> Self:
        """Fold normalization and skip into one convolution: the skip adds 1 at the kernel's center."""
        if self.skip:
            weight = self.conv.fuse().conv.weight
            inputs = weight.shape[1]
            rows = torch.arange(weight.shape[0], device=weight.device)
            with torch.no_grad():
                weight[rows, rows % inputs, 1, 1] += 1
            self.skip = False
        return self


def dense_conv(channels: int, kernel: int) -> nn.Module:
    """Build a Conv-BN-SiLU. (B, channels, H, W) -> same."""
    return ConvNorm(channels, channels, kernel, activation=silu)


def light_conv(channels: int, kernel: int) -> nn.Module:
    """Build HGNetV2's light convolution: pointwise Conv-BN, then depthwise Conv-BN-SiLU. (B, channels, H, W) -> same.

    HGNetV2 is the backbone of RT-DETR, arXiv 2304.08069. Its activation is ReLU.
    """
    depthwise = ConvNorm(channels, channels, kernel, groups=channels, activation=silu)
    return nn.Sequential(ConvNorm(channels, channels, 1), depthwise)


class C2f(nn.Module):
    """YOLOv8's C2f: a 1x1 convolution split in two parts, `depth` residual bottlenecks on the last, all concatenated.

    hidden: width of each part (half of `channels` in E-RADIO).
    kernel: side of the kernels of a bottleneck's two convolutions.
    light: whether these are light convolutions.
    """

    def __init__(self, channels: int, depth: int, hidden: int, kernel: int = 3, light: bool = False) -> None:
        super().__init__()
        conv = light_conv if light else dense_conv
        self.split = ConvNorm(channels, 2 * hidden, 1, activation=silu)
        self.bottlenecks = nn.ModuleList(
            nn.Sequential(conv(hidden, kernel), conv(hidden, kernel)) for _ in range(depth)
        )
        self.merge = ConvNorm((2 + depth) * hidden, channels, 1, activation=silu)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map, (B, C, H, W) -> same."""
        both: Tensor = self.split(x)
        parts = [both, both.chunk(2, 1)[1]]
        for bottleneck in self.bottlenecks:
            parts.append(bottleneck(parts[-1]) + parts[-1])
        merged: Tensor = self.merge(torch.cat([both, *parts[2:]], 1))
        return merged


class Basic(nn.Module):
    """ResNet's basic block: two 3x3 convolutions through `hidden` channels, a skip, ReLU. arXiv 1512.03385."""

    def __init__(self, channels: int, hidden: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.drop_path = DropPath(drop_path)
        self.conv1 = ConvNorm(channels, hidden, 3, activation=relu)
        self.conv2 = ConvNorm(hidden, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map, (B, C, H, W) -> same."""
        y: Tensor = self.conv2(self.conv1(x))
        y = self.drop_path(y) + x
        return y.relu_()


class MBConv(nn.Module):
    """Inverted residual: 1x1 up to `hidden`, depthwise, 1x1 down, a skip. MobileNetV2, arXiv 1801.04381.

    squeeze: width of a squeeze-excitation after the depthwise convolution, as in EfficientNets; None: none.
    kernel: side of the depthwise kernel, 3 or 5 in EfficientNets.
    """

    def __init__(
        self, channels: int, hidden: int, drop_path: float = 0.0, squeeze: int | None = None, kernel: int = 3
    ) -> None:
        super().__init__()
        self.drop_path = DropPath(drop_path)
        self.expand = ConvNorm(channels, hidden, 1, activation=silu)
        self.depthwise = ConvNorm(hidden, hidden, kernel, groups=hidden, activation=silu)
        self.squeeze: nn.Module = squeeze_excite(hidden, squeeze)
        self.project = ConvNorm(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map, (B, C, H, W) -> same."""
        y: Tensor = self.drop_path(self.project(self.squeeze(self.depthwise(self.expand(x)))))
        return y + x
