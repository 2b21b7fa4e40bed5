"""The bottleneck block of ResNet and RegNet."""

from __future__ import annotations

from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.layers.conv import ConvNorm, relu
from backbones.layers.squeeze import squeeze_excite


class Bottleneck(nn.Module):
    """1x1 to `hidden`, 3x3 in groups of `group_width`, 1x1 back, a skip, ReLU. (B, C, H, W) -> same.

    ResNet's is dense with hidden = C / 4, arXiv 1512.03385. RegNetX's is grouped with hidden = C, and RegNetY's has a
    squeeze-excitation of width `squeeze` after the 3x3 convolution, arXiv 2003.13678.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        drop_path: float = 0.0,
        group_width: int | None = None,
        squeeze: int | None = None,
    ) -> None:
        super().__init__()
        self.reduce = ConvNorm(channels, hidden, 1, activation=relu)
        self.conv = ConvNorm(hidden, hidden, 3, groups=hidden // (group_width or hidden), activation=relu)
        self.squeeze: nn.Module = squeeze_excite(hidden, squeeze, F.relu)
        self.expand = ConvNorm(hidden, channels, 1)
        # Branches start small: with 1, rounding errors grow a thousandfold over the 27 blocks of a RegNetY. The 0 of
        # arXiv 1706.02677 would block the branch's gradient in the first step.
        assert isinstance(self.expand.norm, nn.BatchNorm2d)
        nn.init.constant_(self.expand.norm.weight, 0.25)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map, (B, C, H, W) -> same."""
        y: Tensor = self.drop_path(self.expand(self.squeeze(self.conv(self.reduce(x)))))
        return (y + x).relu_()
