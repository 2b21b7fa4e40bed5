"""What each operator of one call computes and moves, in the order they run: MACs, bytes read, bytes written.

Found on the meta device, like the MACs, and in inference mode, where composite operators (linear, attention) arrive
whole: what a fused kernel keeps in registers is then no traffic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nas.measure.counts.macs import EncodeModule, MacCountingMode, evaluating, meta_copy

# In eval mode their kernels hand on the input; only torch's Python form of them, which is what runs here, copies it.
DROPOUTS = frozenset({"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})


@dataclass(frozen=True)
class Operator:
    """One operator call of one batch. What only gives memory another shape is none."""

    module: str  # qualified name of the innermost module that ran it; "" is the network itself
    name: str
    macs: int
    params: int  # elements of the parameters it is the first to read
    read_bytes: int  # inputs and weights
    written: int  # elements
    written_bytes: int
    touched_bytes: int  # of memory, each once: an operator in place reads and writes the same

    @property
    def moved_bytes(self) -> int:
        """Inputs, weights and outputs."""
        return self.read_bytes + self.written_bytes


def operators(model: nn.Module, batch: int, resolution: int, dtype: torch.dtype = torch.float32) -> list[Operator]:
    """The operators of one `encode` (or forward) of images (batch, 3, resolution, resolution) in eval mode.

    A model that lies on the meta device in this type is run itself, any other as a copy.
    """
    encoder = EncodeModule(model if _is_ready(model, dtype) else meta_copy(model).to(dtype))
    images = torch.empty(batch, 3, resolution, resolution, dtype=dtype, device="meta")
    images = images.contiguous(memory_format=torch.channels_last)
    tally = MacCountingMode()
    log = _Log(encoder, tally)
    # The log is operators_inside: it sees an operator whole, and hands it on to the tally, which takes it apart.
    with evaluating(encoder), torch.inference_mode(), log.following(encoder.model), tally, log:
        encoder(images)
    return log.operators


def operators_inside(found: Sequence[Operator], module: str) -> list[Operator]:
    """Those that ran operators_inside the module of that qualified name."""
    return [o for o in found if not module or o.module == module or o.module.startswith(f"{module}.")]


def _is_ready(model: nn.Module, dtype: torch.dtype) -> bool:
    tensors = [*model.parameters(), *model.buffers()]
    return all(t.is_meta and (t.dtype == dtype or not t.is_floating_point()) for t in tensors)


class _Log(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, encoder: EncodeModule, tally: MacCountingMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[Operator] = []
        self._tally = tally
        self._modules = [""]
        self._unread = {_storage(p): p.numel() for p in encoder.parameters()}

    @contextmanager
    def following(self, model: nn.Module) -> Iterator[None]:
        """Knows the innermost running module by hooks."""

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
        before = self._tally.macs
        out = func(*args, **(kwargs or {}))
        given = _tensors((args, kwargs))
        name = func._overloadpacket.__name__
        out = _laid_out(name, given, out)
        made = _tensors(out)
        if not name.removeprefix("new_").startswith("empty") and not _only_views(func, given, made):
            self.operators.append(
                Operator(
                    module=self._modules[-1],
                    name=name,
                    macs=self._tally.macs - before,
                    params=sum(self._unread.pop(_storage(t), 0) for t in given),
                    read_bytes=sum(map(_bytes, given)),
                    written=sum(t.numel() for t in made),
                    written_bytes=sum(map(_bytes, made)),
                    touched_bytes=_touched([*given, *made]),
                )
            )
        return out


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _only_views(func: Any, given: list[Tensor], made: list[Tensor]) -> bool:
    """Whether the result is the input's own memory, unchanged: a view, a reshape that needs no copy, `.to` in vain."""
    if func._schema.is_mutable:
        return False
    if func._overloadpacket.__name__ in DROPOUTS:
        return True
    known = {_storage(t) for t in given}
    return all(_storage(t) in known for t in made)


def _laid_out(name: str, given: list[Tensor], out: Any) -> Any:
    """The result as it lies in a device's memory, where meta differs: else operators would follow that only copy."""
    if name in ("conv2d", "conv_transpose2d") and any(map(_channels_last, given[:2])):
        return out.contiguous(memory_format=torch.channels_last)
    if name == "scaled_dot_product_attention" and out.ndim == 4:  # (B, heads, N, C), but heads lie beside each other
        return out.transpose(1, 2).contiguous().transpose(1, 2)
    return out


def _channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def _bytes(tensor: Tensor) -> int:
    """Bytes that lie in memory: an expanded tensor is no larger than its storage."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _touched(tensors: list[Tensor]) -> int:
    """Bytes of all tensors, where several share memory no more than there is."""
    by_storage: dict[int, list[Tensor]] = {}
    for tensor in tensors:
        by_storage.setdefault(_storage(tensor), []).append(tensor)
    return sum(min(sum(map(_bytes, shared)), shared[0].untyped_storage().nbytes()) for shared in by_storage.values())


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
