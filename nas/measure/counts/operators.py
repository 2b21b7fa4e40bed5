"""List the operators of one call in their order, each with its MACs, bytes read and bytes written.

The call runs on the meta device in inference mode, where composite operators (linear, attention) are not decomposed:
data that a fused kernel keeps in registers is no traffic.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nas.measure.counts.macs import EncodeModule, MacCountingMode, evaluating, meta_copy
from nas.measure.runtimes.onnx_graph import is_channels_last

# In eval mode their kernels return the input; only torch's Python implementation, which runs here, copies it.
DROPOUTS = frozenset({"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})

# They run on matrix libraries, on a GPU in fp32 without TF32; convolutions and fused attention use tensor cores.
PRODUCTS = frozenset({"linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum"})


@dataclass(frozen=True)
class Operator:
    """One operator call of one batch; views are left out."""

    module: str  # qualified name of the innermost module that ran it; "" is the network itself
    name: str
    macs: int
    params: int  # elements of the parameters that it is the first to read
    read_bytes: int  # inputs and weights
    written: int  # elements
    written_bytes: int
    touched_bytes: int  # of memory, each once: an in-place operator reads and writes the same bytes

    @property
    def moved_bytes(self) -> int:
        """Bytes of inputs, weights and outputs."""
        return self.read_bytes + self.written_bytes

    @property
    def is_product(self) -> bool:
        """Whether it is a matrix product."""
        return self.name in PRODUCTS


def operators(model: nn.Module, batch: int, resolution: int, dtype: torch.dtype = torch.float32) -> list[Operator]:
    """Return the operators of one `encode` (or forward) of images (batch, 3, resolution, resolution) in eval mode.

    A model that is on the meta device in this type is run itself, any other is copied there.
    """
    encoder = EncodeModule(model if _is_ready(model, dtype) else meta_copy(model).to(dtype))
    images = torch.empty(batch, 3, resolution, resolution, dtype=dtype, device="meta")
    images = images.contiguous(memory_format=torch.channels_last)
    macs = MacCountingMode()
    log = _OperatorLog(encoder, macs)
    # The log is the inner mode: it gets an operator before the counting mode decomposes it.
    with evaluating(encoder), torch.inference_mode(), log.following(encoder.model), macs, log:
        encoder(images)
    return log.operators


def _is_ready(model: nn.Module, dtype: torch.dtype) -> bool:
    tensors = [*model.parameters(), *model.buffers()]
    return all(t.is_meta and (t.dtype == dtype or not t.is_floating_point()) for t in tensors)


class _OperatorLog(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, encoder: EncodeModule, counter: MacCountingMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[Operator] = []
        self._counter = counter
        self._modules = [""]
        self._unread = {_storage(p): p.numel() for p in encoder.parameters()}

    @contextmanager
    def following(self, model: nn.Module) -> Iterator[None]:
        """Keep track of the innermost running module by hooks while the body runs."""

        def leave(*_: Any) -> None:
            self._modules.pop()

        handles = []
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: self._modules.append(name)))
            handles.append(module.register_forward_hook(leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        macs = self._counter.macs
        out = func(*args, **(kwargs or {}))
        inputs = _tensors((args, kwargs))
        name = func._overloadpacket.__name__
        out = _with_device_layout(name, inputs, out)
        outputs = _tensors(out)
        if not name.removeprefix("new_").startswith("empty") and not _only_views(func, inputs, outputs):
            self.operators.append(
                Operator(
                    module=self._modules[-1],
                    name=name,
                    macs=self._counter.macs - macs,
                    params=sum(self._unread.pop(_storage(t), 0) for t in inputs),
                    read_bytes=sum(map(_bytes, inputs)),
                    written=sum(t.numel() for t in outputs),
                    written_bytes=sum(map(_bytes, outputs)),
                    touched_bytes=_touched([*inputs, *outputs]),
                )
            )
        return out


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _only_views(func: Any, inputs: list[Tensor], outputs: list[Tensor]) -> bool:
    """Return whether outputs are the inputs' memory, unchanged: a view, or a reshape or `to` without a copy."""
    if func._schema.is_mutable:
        return False
    if func._overloadpacket.__name__ in DROPOUTS:
        return True
    storages = {_storage(t) for t in inputs}
    return all(_storage(t) in storages for t in outputs)


def _with_device_layout(name: str, inputs: list[Tensor], out: Any) -> Any:
    """Return the output in a device's memory layout; that of the meta device would add operators that only copy."""
    if name in ("conv2d", "conv_transpose2d") and any(map(is_channels_last, inputs[:2])):
        return out.contiguous(memory_format=torch.channels_last)
    if name == "scaled_dot_product_attention" and out.ndim == 4:  # (B, heads, N, C), stored as (B, N, heads, C)
        return out.transpose(1, 2).contiguous().transpose(1, 2)
    return out


def _bytes(tensor: Tensor) -> int:
    """Return a tensor's bytes in memory; an expanded tensor is no larger than its storage."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _touched(tensors: list[Tensor]) -> int:
    """Return the bytes of all tensors; those that share a storage count as its size at most."""
    by_storage: dict[int, list[Tensor]] = {}
    for tensor in tensors:
        by_storage.setdefault(_storage(tensor), []).append(tensor)
    return sum(min(sum(map(_bytes, shared)), shared[0].untyped_storage().nbytes()) for shared in by_storage.values())


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
