"""A stage: a sequence of blocks, and resizing for blocks that need a multiple of their window."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from backbones.layers.attention_kernel import infers_on_cpu
from backbones.layers.eradio_attention import Subsample
from backbones.layers.fp32_fallback import fp32_fallback
from backbones.layers.window import WindowBlock

CHUNK_VALUES = 2**19  # of a map; the intermediates of its blocks are four times as large


class KeptStatistics(AbstractContextManager[None]):
    """Restores the running statistics of a block's norms after the block was computed again for the backward pass.

    The first computation has updated them with this batch. The second one updates them too, because PyTorch compares
    the tensors that both save, and refuses a second computation that differs.
    """

    def __init__(self, block: nn.Module) -> None:
        norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
        self._buffers = [buffer for norm in norms for buffer in norm.buffers()]

    def __enter__(self) -> None:
        self._kept = [buffer.clone() for buffer in self._buffers]

    def __exit__(self, *error: object) -> None:
        for buffer, kept in zip(self._buffers, self._kept, strict=True):
            buffer.copy_(kept)


class Stage(nn.Module):
    """Blocks on a map, (B, C, H, W) -> same.

    A map that is no multiple of `step` is resized (nearest neighbor) to one, and the result back. Neighbors are those
    of the tokens' centers ("nearest-exact"), so that both steps together are the identity. Only around E-RADIO's
    `WindowBlock` they are those of the tokens' upper left corners ("nearest"), as in the published networks. At a ratio
    that is no whole number, its result has moved by up to one token: 16 tokens that became 21 come back as 0, 0, 1, 2,
    ... 14.

    Attributes:
        blocks: the blocks in the order they run.
        step: largest window times largest subsampling ratio; 1 where blocks take any size.
        grad_checkpointing: whether the backward pass recomputes each block instead of keeping its activations.
    """

    def __init__(self, blocks: Sequence[nn.Module], step: int = 1) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.step = step
        self.grad_checkpointing = False

    @property
    def decides_by_size(self) -> bool:
        """Whether maps of some sizes are resized, see `Backbone.traces_any_size`."""
        return self.step > 1

    def forward(self, x: Tensor) -> Tensor:
        """Run all blocks, (B, C, H, W) -> same."""
        return join([self._resized(part) for part in self.parts(x)])

    def parts(self, x: Tensor) -> Sequence[Tensor]:
        """Split a batch into the images to run at a time: on a CPU in eval mode, those whose maps fit into its cache.

        A block's output is then still in the cache, and the allocator does not return large buffers to the system,
        which would zero them again. This gains 12 % at batch 8, 256 px. A trace would keep the number of parts, and so
        take no other batch.
        """
        if self.training or not infers_on_cpu(x):
            return (x,)
        h, w = self._fitting(x)
        split: Sequence[Tensor] = x.split(max(1, CHUNK_VALUES // (x.shape[1] * h * w)))
        return split

    def call(self, block: nn.Module, *inputs: Any) -> Any:
        """Run a block; with `grad_checkpointing`, the backward pass recomputes it."""
        if self.grad_checkpointing and self.training:
            if torch.compiler.is_compiling():  # a compiled block's statistics are no part of what is computed again
                return checkpoint(block, *inputs, use_reentrant=False)
            contexts = nullcontext(), KeptStatistics(block)
            return checkpoint(block, *inputs, use_reentrant=False, context_fn=lambda: contexts)
        return fp32_fallback(block, *inputs)

    def _fitting(self, x: Tensor) -> tuple[int, int]:
        h, w = x.shape[2:]
        return -(-h // self.step) * self.step, -(-w // self.step) * self.step

    def _resized(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        fitting = self._fitting(x)
        if fitting == (h, w):
            return self._run(x)
        corners = isinstance(self.blocks[-1], WindowBlock)
        mode = "nearest" if corners else "nearest-exact"
        x = F.interpolate(x, size=fitting, mode=mode)
        stride = (fitting[0] // h, fitting[1] // w)
        if corners and (h * stride[0], w * stride[1]) == fitting:
            return self._run(x, stride)  # the positions that "nearest" would keep
        return F.interpolate(self._run(x), size=(h, w), mode=mode)

    def _run(self, x: Tensor, stride: Subsample | None = None) -> Tensor:
        """Run all blocks; return each `stride`-th row and column of the last one's result."""
        for i, block in enumerate(self.blocks, start=1):
            x = self.call(block, x, *((stride,) if stride is not None and i == len(self.blocks) else ()))
        return x


def join(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate the results of `Stage.parts`; without a copy where there is one only."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
