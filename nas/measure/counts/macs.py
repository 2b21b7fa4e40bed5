"""Count multiply-accumulates (MACs) of one image on the meta device: exact, in milliseconds, without memory.

A MAC is one multiplication and addition of a matrix product, convolution or attention; x2 gives FLOPs. All other
arithmetic that runs (normalization, activations, pooling ...) is not counted but listed: nothing is left out silently.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from nas.measure.counts.shapes import meta_result
from nas.measure.runtimes.contract import encoder

aten = torch.ops.aten

# Operators that only move or create data. Views are recognized by their schema.
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
    """Return the FLOPs of softmax(Q Kᵀ) V from tensors (B, heads, tokens, width); a mask doesn't change them."""
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]


# torch's registry has only the CUDA kernels of attention. On the meta device attention decomposes into two bmm, which
# are counted; these kernels are for devices where it doesn't decompose.
ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    aten._scaled_dot_product_fused_attention_overrideable: _attention_flops,
}


class Role(NamedTuple):
    """How an operator is treated: decomposed, counted by `flops`, listed under `group`, or ignored."""

    composite: bool
    flops: Callable[..., Any] | None
    group: str | None


def _by_shapes(formula: Any) -> Any:
    """Return a torch formula without its wrapper, which traverses all arguments as trees to get the tensors' shapes."""
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
    """Return the role of an overload such as aten.convolution.default."""
    packet = operator._overloadpacket
    flops = _by_shapes(flop_registry.get(packet) or ATTENTION.get(packet))
    name = packet.__name__
    ignored = flops is not None or name in MOVES_DATA or operator.is_view
    group = "elementwise" if torch.Tag.pointwise in operator.tags else name
    # In inference mode, composite operators reach a dispatch mode before they are decomposed.
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), "CompositeImplicitAutograd")
    return Role(flops is None and composite, flops, None if ignored else group)


class MacCountingMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the MACs of all operators, with those of convolutions, and the elements of operators without MACs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = self.convolution_macs = 0
        self.elements: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        role = role_of(func)
        if role.composite:
            with self:
                return func.decompose(*args, **kwargs)
        out = meta_result(func, args, kwargs)
        if role.flops is not None:
            macs = role.flops(*args, **kwargs, out_val=out) // 2
            self.macs += macs
            self.convolution_macs += macs if func is aten.convolution.default else 0
        elif role.group is not None:
            leaves = (out,) if isinstance(out, Tensor) else tree_leaves(out)
            self.elements[role.group] += next((leaf.numel() for leaf in leaves if isinstance(leaf, Tensor)), 0)
        return out


class ModuleMacCounter:
    """Add up the MACs of `mode` by module of `model`; a module's MACs include those of the modules inside it."""

    def __init__(self, model: nn.Module, mode: MacCountingMode) -> None:
        self._mode = mode
        self._modules = list(model.named_modules())
        self.macs = {name: 0 for name, _ in self._modules}

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count while the body runs."""
        overrides = [(module, vars(module).get("forward")) for _, module in self._modules]
        for name, module in self._modules:
            # Hooks would miss modules that are called as `module.forward(x)`.
            vars(module)["forward"] = partial(self._call, name, module.forward)
        try:
            yield
        finally:
            for module, forward in overrides:
                del vars(module)["forward"]
                if forward is not None:
                    vars(module)["forward"] = forward

    def _call(self, name: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        before = self._mode.macs
        output = forward(*args, **kwargs)
        self.macs[name] += self._mode.macs - before
        return output


@dataclass(frozen=True)
class Counts:
    """The MACs and parameters of a network for one image."""

    macs: int
    params: int  # all of the model's, including those of a classifier that is not run
    module_macs: dict[str, int]  # qualified module name ("" is the model) -> MACs inside it
    uncounted: dict[str, int]  # operator with arithmetic but no MACs ("elementwise" for pointwise) -> elements produced


class EncodeModule(nn.Module):
    """A module that calls the model's `encode`, or its forward, and returns a flat tuple, as tracers need."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images (B, 3, H, W) to all tensors that the model returns."""
        return tuple(leaf for leaf in tree_leaves(encoder(self.model)(images)) if isinstance(leaf, Tensor))


def meta_copy(model: nn.Module) -> nn.Module:
    """Copy a model to the meta device, without copying its weights."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.to("meta"), requires_grad=False) for p in model.parameters()}
    memo |= {id(b): b.to("meta") for b in model.buffers()}
    return copy.deepcopy(model, memo).to("meta")  # `to` moves tensors that the deep copy creates itself


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode without gradients; in inference mode, SDPA and linear would not be decomposed."""
    training = [(module, module.training) for module in model.modules()]
    if any(was_training for _, was_training in training):
        model.eval()
    try:
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        for module, was_training in training:
            module.training = was_training


def count(model: nn.Module, resolution: int) -> Counts:
    """Count one image (1, 3, resolution, resolution) in eval mode; the model is not changed.

    MACs of a module include those of the modules inside it. A model on the meta device is run itself, any other is
    copied there.
    """
    encoder = EncodeModule(model if _is_on_meta(model) else meta_copy(model))
    mode = MacCountingMode()
    counter = ModuleMacCounter(encoder.model, mode)
    with evaluating(encoder), mode, counter.counting():
        encoder(torch.empty(1, 3, resolution, resolution, device="meta"))
    return Counts(
        macs=mode.macs,
        params=sum(p.numel() for p in model.parameters()),
        module_macs={**counter.macs, "": mode.macs},
        uncounted=dict(mode.elements.most_common()),
    )


def _is_on_meta(model: nn.Module) -> bool:
    tensors = chain.from_iterable((*m._parameters.values(), *m._buffers.values()) for m in model.modules())
    return all(tensor is None or tensor.is_meta for tensor in tensors)


def checked_count(name: str, model: nn.Module, resolution: int) -> Counts:
    """Count a network.

    Raises:
        ValueError: The network cannot take the resolution; the message is one line.
    """
    try:
        return count(model, resolution)
    except (RuntimeError, AssertionError, ValueError) as error:  # raised by timm's networks of a fixed size
        summary = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name} cannot take images of {resolution} px: {summary}") from None
