"""Count multiply-accumulates (MACs) of one image on the meta device: exact, in milliseconds, without memory.

A MAC is one multiplication and addition of a matrix product, convolution or attention; x2 gives FLOPs. All other
arithmetic that runs (normalization, activations, pooling ...) is not counted but listed: nothing is left out silently.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
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


class MacCountingMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
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


# What nn.Module itself keeps that has no part in what a module computes. Modules with hooks are always run.
BOOKKEEPING = frozenset(vars(nn.Module())) - {"_parameters", "_buffers", "_modules", "training"} | {"forward"}
BY_VALUE = frozenset({type(None), bool, int, float, str, bytes, torch.dtype, torch.device})


class Run(NamedTuple):
    """What one call of a module did. `macs`: one number for each of its modules(), itself first."""

    macs: list[int]
    elements: Counter[str]
    output: Any


class ModuleMacCounter:
    """Books the MACs of `tally` to the modules of `model` that run; what a part does counts for the whole as well.

    A block in a list of blocks is booked without being run where one like it has run on inputs of the same shapes.
    Alike means: of one type, with equal attributes and parts and tensors of equal layout, by `signature`. Blocks that
    change themselves or their arguments, that have hooks, or that take or return anything but tensors, numbers and
    text are always run.
    """

    def __init__(self, model: nn.Module, tally: MacCountingMode) -> None:
        self._tally = tally
        self._modules = list(model.named_modules())
        self.macs = {name: 0 for name, _ in self._modules}  # module name -> MACs inside it
        self._names = {id(module): name for name, module in self._modules}
        self._single = {id(module) for _, module in self._modules if _has_its_own_ways(module)}
        self._repeated = set(_repeated(module for _, module in self._modules))
        self._runs: dict[Hashable, Run] = {}

    @contextmanager
    def open(self) -> Iterator[ModuleMacCounter]:
        """Books while the body runs."""
        own = [(module, vars(module).get("forward")) for _, module in self._modules]
        for name, module in self._modules:
            # Beside the class's method: what a module calls as `part.forward(x)` is booked as well.
            vars(module)["forward"] = partial(self._call, name, module, module.forward)
        try:
            yield self
        finally:
            for module, forward in own:
                del vars(module)["forward"]
                if forward is not None:
                    vars(module)["forward"] = forward

    def _call(self, name: str, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if id(module) in self._repeated and _is_plain((args, kwargs)):
            return self._once(name, module, forward, args, kwargs)
        before = self._tally.macs
        output = forward(*args, **kwargs)
        self.macs[name] += self._tally.macs - before
        return output

    def _once(self, name: str, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        key = self._key(module, args, kwargs)
        if run := self._runs.get(key):
            return self._book(module, run)
        books = [self._names[id(part)] for part in module.modules()]
        earlier, macs, elements = [self.macs[book] for book in books], self._tally.macs, self._tally.elements.copy()
        output = forward(*args, **kwargs)
        self.macs[name] += self._tally.macs - macs
        if _is_plain(output) and key == self._key(module, args, kwargs):
            inside = [self.macs[book] - before for book, before in zip(books, earlier, strict=True)]
            produced = self._tally.elements.copy()
            produced.subtract(elements)
            self._runs[key] = Run(inside, produced, output)
        return output

    def _book(self, module: nn.Module, run: Run) -> Any:
        for part, macs in zip(module.modules(), run.macs, strict=True):
            self.macs[self._names[id(part)]] += macs
        self._tally.macs += run.macs[0]
        self._tally.elements.update(run.elements)
        return tree_map_only(Tensor, _again, run.output)

    def _key(self, module: nn.Module, args: Any, kwargs: Any) -> Hashable:
        return signature((module, args, kwargs), {}, self._single)


def signature(value: Any, seen: dict[int, int], single: set[int]) -> Hashable:
    """Equal for values that make a module do the same work.

    Modules by type, attributes and parts, but those in `single` equal nothing; tensors by type and layout; plain values
    and containers by content; everything else by identity. What occurs twice must do so in both: `seen` holds where.
    """
    kind = type(value)
    if kind in BY_VALUE:
        return kind, value  # 1, 1.0 and True are equal, but don't compute alike
    if isinstance(value, dict):
        return kind, *[(k, signature(v, seen, single)) for k, v in value.items()]
    if isinstance(value, list | tuple):
        return kind, *[signature(v, seen, single) for v in value]
    if isinstance(value, Tensor | nn.Module):
        if id(value) in seen:
            return "seen", seen[id(value)]
        seen[id(value)] = len(seen)
        if isinstance(value, Tensor):
            return kind, value.shape, value.stride(), value.dtype, value.device
        if id(value) in single:
            return object()
        return kind, *[(k, signature(v, seen, single)) for k, v in vars(value).items() if k not in BOOKKEEPING]
    return "identity", id(value)


def _again(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)


def _is_plain(value: Any) -> bool:
    return all(leaf is None or isinstance(leaf, Tensor | bool | int | float | str) for leaf in tree_leaves(value))


def _has_its_own_ways(module: nn.Module) -> bool:
    return bool("forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks)


def _repeated(modules: Iterable[nn.Module]) -> Iterator[int]:
    """Ids of the modules in a list that another one there is like at first sight."""
    looks: dict[int, Hashable] = {}
    for holder in modules:
        if isinstance(holder, nn.ModuleList | nn.Sequential):
            often = Counter(_look(part, looks) for part in holder.children())
            yield from (id(part) for part in holder.children() if part._modules and often[looks[id(part)]] > 1)


def _look(module: nn.Module, looks: dict[int, Hashable]) -> Hashable:
    """Type and parameters' shapes of a module and its parts, by id in `looks`."""
    if id(module) not in looks:
        shapes = [None if p is None else p.shape for p in module._parameters.values()]
        looks[id(module)] = (type(module), *shapes, *[_look(part, looks) for part in module.children()])
    return looks[id(module)]


@dataclass(frozen=True)
class Counts:
    """What one image costs."""

    macs: int
    params: int  # all of the model's parameters, those of a classifier that is not run included
    module_macs: dict[str, int]  # qualified module name ("" is the model) -> MACs inside it
    uncounted: dict[str, int]  # operator with arithmetic but no MACs ("elementwise" for pointwise) -> elements produced


class EncodeModule(nn.Module):
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
    """Counts of one image (1, 3, resolution, resolution) in eval mode; the model is left as it was.

    Per-module numbers are MACs executed inside the module, so that parents include their children. A model that lies
    on the meta device is run itself, any other as a copy; either way equal blocks in a row are run once.
    """
    encoder = EncodeModule(model if _is_hollow(model) else meta_copy(model))
    tally = MacCountingMode()
    ledger = ModuleMacCounter(encoder.model, tally)
    with evaluating(encoder), tally, ledger.open():
        encoder(torch.empty(1, 3, resolution, resolution, device="meta"))
    return Counts(
        macs=tally.macs,
        params=sum(p.numel() for p in model.parameters()),
        module_macs={**ledger.macs, "": tally.macs},
        uncounted=dict(tally.elements.most_common()),
    )


def _is_hollow(model: nn.Module) -> bool:
    own = chain.from_iterable((*module._parameters.values(), *module._buffers.values()) for module in model.modules())
    return all(tensor is None or tensor.is_meta for tensor in own)
