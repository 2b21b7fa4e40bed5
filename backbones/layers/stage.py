"""A stage: blocks in a row, and the resizing around those that want a multiple of their window."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


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
        h, w = x.shape[2:]
        fitting = (-(-h // self.step) * self.step, -(-w // self.step) * self.step)
        if fitting == (h, w):
            return self._run(x)
        y = self._run(F.interpolate(x, size=fitting, mode="nearest"))
        return F.interpolate(y, size=(h, w), mode="nearest")

    def _run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.grad_checkpointing and self.training else block(x)
        return x
