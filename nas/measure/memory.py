"""Peak memory of one forward: weights, buffers, one batch of inputs and the activations alive at the worst moment.

CUDA: the allocator's peak, what else lies on the card taken off. CPU: every tensor storage that an operator made is
followed until it is freed; the kernels' own scratch memory is not seen. The resident set would be no measure: it holds
every earlier peak.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MIB = 2**20


def peak_memory_mib(call: Callable[[], object], model: nn.Module, images: Tensor) -> float:
    """MiB that `call` (the model on `images`) needs at its worst moment."""
    fixed = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers(), images))
    activations = _cuda_peak(call, images.device) if images.device.type == "cuda" else _host_peak(call)
    return (fixed + activations) / MIB


def _cuda_peak(call: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    out = call()
    torch.cuda.synchronize(device)
    del out
    return int(torch.cuda.max_memory_allocated(device) - before)


def _host_peak(call: Callable[[], object]) -> int:
    # Not inference mode: there composite operators (linear, attention) hide their intermediate results from the mode.
    live = LiveStorages()
    with torch.inference_mode(False), torch.no_grad(), live:
        call()
    return live.peak_bytes


class LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the storages that operators made inside this mode and that are still alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = 0
        self.peak_bytes = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and not func.is_view:
                self._follow(leaf.untyped_storage(), args)
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return out

    def _follow(self, storage: torch.UntypedStorage, args: Any) -> None:
        key = storage._cdata
        given = {a.untyped_storage()._cdata for a in tree_leaves(args) if isinstance(a, Tensor)}
        if key in self.known or key in given:
            return  # seen before, or an in-place operator on a tensor from outside
        self.known.add(key)
        self.live_bytes += storage.nbytes()
        weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live_bytes -= size
