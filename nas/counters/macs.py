"""Multiply-accumulates (MACs) of one image, counted on the meta device: exact, in milliseconds, without memory.

A MAC is one multiplication and addition of a matrix product, convolution or attention; x2 gives FLOPs. Everything else
that runs and does arithmetic (normalisation, activations, pooling ...) is not counted but listed: nothing is left out
silently.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

aten = torch.ops.aten

# They only move or make data. Views are recognised by their schema.
MOVES_DATA = frozenset(
    {
        "_to_copy",
        "_unsafe_index",
        "_unsafe_view",
        "arange",
        "cat",
        "clone",
        "constant_pad_nd",
        "copy_",
        "empty",
        "empty_like",
        "fill_",
        "full",
        "full_like",
        "index",
        "index_select",
        "lift_fresh",
        "new_empty",
        "new_full",
        "new_zeros",
        "ones",
        "ones_like",
        "reflection_pad2d",
        "roll",
        "scalar_tensor",
        "stack",
        "zero_",
        "zeros",
        "zeros_like",
        "_assert_async",
        "_local_scalar_dense",
    }
)


@dataclass(frozen=True)
class Counts:
    """What one image costs."""

    macs: int
    params: int  # all of the model's parameters, those of a classifier that is not run included
    module_macs: dict[str, int]  # qualified module name ("" is the model) -> MACs inside it
    uncounted: dict[
        str, int
    ]  # operator that does arithmetic but has no MACs -> elements it produced; pointwise ones as "elementwise"


class Encoder(nn.Module):
    """The counted and measured callable as a module: `encode` where the model has it, else its forward.

    Returns a flat tuple of tensors, which a tracer can follow.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) to every tensor the model returns."""
        call: Callable[[Tensor], Any] = getattr(self.model, "encode", self.model)
        return tuple(leaf for leaf in tree_leaves(call(images)) if isinstance(leaf, Tensor))


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy on the meta device: shapes without numbers, made without copying the weights."""
    hollow: dict[int, Any] = {id(p): nn.Parameter(p.to("meta"), requires_grad=False) for p in model.parameters()}
    hollow |= {id(b): b.to("meta") for b in model.buffers()}
    return copy.deepcopy(model, hollow).to("meta")  # .to: what a deep copy makes anew


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients. Not inference mode: there SDPA and linear reach a dispatch mode undivided."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        model.train(training)


class OperatorLog(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Elements produced by each operator that ran, without those that move data and those in `counted`."""

    def __init__(self, counted: set[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counted = counted
        self.elements: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        name = packet.__name__
        if packet not in self.counted and name not in MOVES_DATA and not func.is_view:
            group = "elementwise" if torch.Tag.pointwise in func.tags else name
            produced = next((leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)), 0)
            self.elements[group] = self.elements.get(group, 0) + produced
        return out


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """FLOPs of softmax(Q Kᵀ) V from the shapes (B, heads, tokens, width); a mask adds no MACs and saves none."""
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


# torch counts only the CUDA kernels of attention. On meta it normally falls apart into two bmm, which are counted;
# these stand by for the paths where it does not (inference mode, another device).
ATTENTION = {
    aten.scaled_dot_product_attention: _attention_flops,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    aten._scaled_dot_product_fused_attention_overrideable: _attention_flops,
}


def count(model: nn.Module, resolution: int) -> Counts:
    """Counts of one image (1, 3, resolution, resolution) in eval mode; the model is left as it was.

    Per-module numbers are MACs executed inside the module, so that parents include their children.
    """
    encoder = Encoder(meta_copy(model))
    counter = FlopCounterMode(display=False, custom_mapping=ATTENTION)
    log = OperatorLog(set(counter.flop_registry))
    images = torch.empty(1, 3, resolution, resolution, device="meta")
    with (
        evaluating(encoder),
        log,
        counter,
    ):  # the counter is inside: it may take an operator apart, the log sees the parts
        encoder(images)
    return Counts(
        macs=counter.get_total_flops() // 2,
        params=sum(p.numel() for p in model.parameters()),
        module_macs=_by_module(counter.get_flop_counts(), encoder),
        uncounted=dict(sorted(log.elements.items(), key=lambda item: -item[1])),
    )


def _by_module(flops: dict[str, dict[Any, int]], encoder: Encoder) -> dict[str, int]:
    """MACs by the model's own module names. The counter calls them "Encoder.model.stem...", the whole "Global"."""
    total = sum(flops.get("Global", {}).values()) // 2
    macs = {name: 0 for name, _ in encoder.model.named_modules()}
    for tracked, operators in flops.items():
        name = tracked.removeprefix("Encoder.model").removeprefix(".")
        if name in macs and tracked.startswith("Encoder.model"):
            macs[name] = sum(operators.values()) // 2
    return {**macs, "": total}
