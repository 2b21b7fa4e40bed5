"""What an operator costs: a dispatch mode that adds up MACs and lists the arithmetic that has none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from nas.measure.counts.shapes import result

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
        "empty_strided",
        "fill_",
        "full",
        "full_like",
        "index",
        "index_select",
        "lift_fresh",
        "new_empty",
        "new_empty_strided",
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


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """FLOPs of softmax(Q Kᵀ) V from tensors (B, heads, tokens, width); a mask adds no MACs and saves none."""
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]


# torch's registry has the CUDA kernels of attention only. On meta attention falls apart into two bmm, which are
# counted; these stand by for the device where it doesn't.
ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    aten._scaled_dot_product_fused_attention_overrideable: _attention_flops,
}


class Role(NamedTuple):
    """How an operator is treated: taken apart, counted by `flops`, listed under `group`, or passed over."""

    composite: bool
    flops: Callable[..., Any] | None
    group: str | None


def _by_shapes(formula: Any) -> Any:
    """torch's formula in fewer steps: it goes through all arguments as trees to get at the shapes of the tensors."""
    bare = getattr(formula, "__wrapped__", None)
    if bare is None:
        return formula
    return lambda *args, out_val, **kwargs: bare(
        *map(_shape, args), out_shape=_shape(out_val), **{key: _shape(value) for key, value in kwargs.items()}
    )


def _shape(value: Any) -> Any:
    return value.shape if isinstance(value, Tensor) else value


@cache
def role_of(operator: Any) -> Role:
    """The role of an overload such as aten.convolution.default."""
    packet = operator._overloadpacket
    flops = _by_shapes(flop_registry.get(packet) or ATTENTION.get(packet))
    name = packet.__name__
    passed_over = flops is not None or name in MOVES_DATA or operator.is_view
    group = "elementwise" if torch.Tag.pointwise in operator.tags else name
    # In inference mode, operators arrive whole that are else taken apart before they come here.
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), "CompositeImplicitAutograd")
    return Role(flops is None and composite, flops, None if passed_over else group)


class Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """MACs of all that runs, and for each uncounted operator the elements it produced."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0
        self.elements: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        role = role_of(func)
        if role.composite:
            with self:
                return func.decompose(*args, **kwargs)
        out = result(func, args, kwargs)
        if role.flops is not None:
            self.macs += role.flops(*args, **kwargs, out_val=out) // 2
        elif role.group is not None:
            leaves = (out,) if isinstance(out, Tensor) else tree_leaves(out)
            self.elements[role.group] += next((leaf.numel() for leaf in leaves if isinstance(leaf, Tensor)), 0)
        return out
