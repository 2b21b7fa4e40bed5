"""Token MLPs, and the blocks that consist of a token mixer and an MLP."""

from __future__ import annotations

from typing import Self

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.layers.conv import fold_norm


class Mlp(nn.Module):
    """Linear, exact GELU, Linear, no biases. (..., C) -> (..., C)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP, (..., C) -> same."""
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y


class SwiGlu(nn.Module):
    """Gated MLP without biases: the first layer computes value and gate, the second projects silu(gate) * value.

    (..., C) -> (..., C). arXiv 2002.05202. hidden: width of the value.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 2 * hidden, bias=False)
        self.fc2 = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP, (..., C) -> same."""
        value, gate = self.fc1(x).chunk(2, -1)
        y: Tensor = self.fc2(F.silu(gate) * value)
        return y


class ConvNeXt(nn.Module):
    """Depthwise convolution (7x7 in the paper), LayerNorm, MLP, a skip. (B, C, H, W) -> same. arXiv 2201.03545.

    Without layer scale, because factors that start at 1e-6 would suppress a block throughout a short training.
    """

    def __init__(self, channels: int, hidden: int, drop_path: float = 0.0, kernel: int = 7) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-5)
        self.mlp = Mlp(channels, hidden)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map, (B, C, H, W) -> same."""
        tokens = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y: Tensor = self.drop_path(self.mlp(tokens).permute(0, 3, 1, 2))
        return x + y


class PoolMixer(nn.Module):
    """PoolFormer's block: tokens mix by 3x3 average pooling, then an MLP. (B, C, H, W) -> same. arXiv 2111.11418.

    BatchNorm replaces GroupNorm, because it can be folded: pool(a x + b) - (a x + b) = a (pool(x) - x).
    """

    def __init__(self, channels: int, hidden: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.drop_path = DropPath(drop_path)
        self.norm1 = nn.BatchNorm2d(channels, eps=1e-5)
        self.norm2: nn.Module = nn.BatchNorm2d(channels, eps=1e-5)
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=False)
        self.scale: Tensor | None
        self.register_buffer("scale", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map, (B, C, H, W) -> same."""
        y: Tensor = x if self.scale is not None else self.norm1(x)
        mixed = F.avg_pool2d(y, 3, 1, 1, count_include_pad=False) - y
        x = x + self.drop_path(mixed if self.scale is None else mixed * self.scale)
        y = self.drop_path(self.fc2(F.gelu(self.fc1(self.norm2(x)))))
        return x + y

    def fuse(self) -> Self:
        """Fold the first norm into a scale and the second into the MLP."""
        if self.scale is None:
            norm = self.norm1
            assert norm.running_var is not None
            self.scale = (norm.weight * torch.rsqrt(norm.running_var + norm.eps)).detach().view(1, -1, 1, 1)
            self.fc1 = fold_norm_before(self.norm2, self.fc1)
            self.norm2 = nn.Identity()
        return self


def fold_norm_before(norm: nn.Module, conv: nn.Conv2d) -> nn.Conv2d:
    """Return a 1x1 convolution equal to ``conv(norm(x))`` in eval mode; impossible for padded kernels."""
    channels = conv.in_channels
    identity = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
    nn.init.ones_(identity.weight)
    affine = fold_norm(identity.to(conv.weight).eval(), norm.eval())
    folded = nn.Conv2d(conv.in_channels, conv.out_channels, 1).to(conv.weight)
    weight = conv.weight.flatten(1)
    assert affine.bias is not None
    assert folded.bias is not None
    with torch.no_grad():
        folded.weight.copy_((weight * affine.weight.view(1, -1)).view_as(conv.weight))
        folded.bias.copy_(weight @ affine.bias + (0 if conv.bias is None else conv.bias))
    return folded
