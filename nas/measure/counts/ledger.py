"""MACs by module, with equal blocks run once: a stage of nine equal blocks costs the time of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from nas.measure.counts.tally import Tally

# What nn.Module itself keeps that has no part in what a module computes. Modules with hooks are always run.
BOOKKEEPING = frozenset(vars(nn.Module())) - {"_parameters", "_buffers", "_modules", "training"} | {"forward"}
BY_VALUE = frozenset({type(None), bool, int, float, str, bytes, torch.dtype, torch.device})


class Run(NamedTuple):
    """What one call of a module did. `macs`: one number for each of its modules(), itself first."""

    macs: list[int]
    elements: Counter[str]
    output: Any


class Ledger:
    """Books the MACs of `tally` to the modules of `model` that run; what a part does counts for the whole as well.

    A block in a list of blocks is booked without being run where one like it has run on inputs of the same shapes.
    Alike means: of one type, with equal attributes and parts and tensors of equal layout, by `signature`. Blocks that
    change themselves or their arguments, that have hooks, or that take or return anything but tensors, numbers and
    text are always run.
    """

    def __init__(self, model: nn.Module, tally: Tally) -> None:
        self._tally = tally
        self._modules = list(model.named_modules())
        self.macs = {name: 0 for name, _ in self._modules}  # module name -> MACs inside it
        self._names = {id(module): name for name, module in self._modules}
        self._single = {id(module) for _, module in self._modules if _has_its_own_ways(module)}
        self._repeated = set(_repeated(module for _, module in self._modules))
        self._runs: dict[Hashable, Run] = {}

    @contextmanager
    def open(self) -> Iterator[Ledger]:
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
