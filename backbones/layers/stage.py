"""A stage: blocks in a row, and the resizing around those that want a multiple of their window."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from backbones.layers.attention import Subsample
from backbones.layers.fp32_fallback import fp32_fallback
from backbones.layers.window import WindowBlock

CACHED = 2**19  # values of a map; its blocks' intermediates are four times that


class Stage(nn.Module):
    """Blocks on a map that is resized (nearest) to a multiple of `step` where it isn't one, and back.

    step: largest window times largest subsampling ratio; 1 where blocks take any size. (B, C, H, W) -> (B, C, H, W).
    grad_checkpointing: recompute each block in the backward pass instead of keeping its activations.
    """

    def __init__(self, blocks: Sequence[nn.Module], step: int = 1) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.step = step
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        if self.training or torch.is_grad_enabled() or x.device.type != "cpu" or torch.compiler.is_compiling():
            return self._resized(x)
        # Some images at a time: a CPU then finds in its cache what a block has just written, and the allocator does
        # not hand large blocks back to the system only to have them zeroed again. Worth 12 % at batch 8, 256 px.
        parts = x.split(max(1, CACHED // (x.shape[1] * self._fitting(x)[0] * self._fitting(x)[1])))
        return self._resized(x) if len(parts) == 1 else torch.cat([self._resized(part) for part in parts])

    def _fitting(self, x: Tensor) -> tuple[int, int]:
        h, w = x.shape[2:]
        return -(-h // self.step) * self.step, -(-w // self.step) * self.step

    def _resized(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        fitting = self._fitting(x)
        if fitting == (h, w):
            return self._run(x)
        x = F.interpolate(x, size=fitting, mode="nearest")
        stride = (fitting[0] // h, fitting[1] // w)
        if (h * stride[0], w * stride[1]) == fitting and isinstance(self.blocks[-1], WindowBlock):
            return self._run(x, stride)  # what "nearest" would keep
        return F.interpolate(self._run(x), size=(h, w), mode="nearest")

    def _run(self, x: Tensor, stride: Subsample | None = None) -> Tensor:
        """All blocks; only each `stride`-th row and column of the last one's result."""
        for i, block in enumerate(self.blocks, start=1):
            rest = (stride,) if stride is not None and i == len(self.blocks) else ()
            if self.grad_checkpointing and self.training:
                x = checkpoint(block, x, *rest, use_reentrant=False)
            else:
                x = fp32_fallback(block, x, *rest)
        return x
