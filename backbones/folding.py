"""BatchNorm of networks that aren't ours, folded into the convolutions before it.

Which pairs those are is seen in one call: modules of strangers nest as they like, but tensors tell who read them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

# Exactly these: convolutions that standardize their weight undo a fold, norms of other kinds have more to do.
CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
NORMS = (nn.BatchNorm2d, BatchNormAct2d)


class Pair(NamedTuple):
    """Names of a convolution and the BatchNorm that alone reads it."""

    convolution: str
    norm: str


def batch_norms_left(model: nn.Module) -> int:
    """How many BatchNorms `model` still runs: 0 for a network that is folded throughout."""
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


def fold_batch_norms(model: nn.Module, call: Callable[[Tensor], Any], images: Tensor) -> None:
    """Fold, in place, each BatchNorm whose input is a convolution's output that nothing else reads.

    call: runs `model` (in eval mode) on `images` in the way it will be used. Other BatchNorms stay as they are: before
    a convolution, on a skip, or behind an output that is read twice. Raises RuntimeError if the output changed.
    """
    with torch.no_grad():
        pairs, before = traced_pairs(model, call, images)
        for pair in pairs:
            convolution, norm = model.get_submodule(pair.convolution), model.get_submodule(pair.norm)
            model.set_submodule(pair.convolution, fuse_conv_bn_eval(convolution, norm))  # type: ignore[type-var, arg-type]
            rest = (getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part))  # of BatchNormAct2d
            model.set_submodule(pair.norm, nn.Sequential(*rest))
        if images.is_meta:
            return
        for old, new in zip(tensors(before), tensors(call(images)), strict=True):
            if not torch.allclose(new, old, rtol=0, atol=1e-3 * float(old.abs().max())):
                raise RuntimeError("folding BatchNorm changed the network's output")


def traced_pairs(model: nn.Module, call: Callable[[Tensor], Any], images: Tensor) -> tuple[list[Pair], Any]:
    """What can be folded according to one call, and the call's output."""
    made: dict[int, tuple[str, Tensor]] = {}  # the outputs are kept alive, so that an id stays one tensor's
    met: list[tuple[Pair, int]] = []
    calls: Counter[str] = Counter()
    hooks = []
    readers = _Readers()
    for name, module in model.named_modules():
        if type(module) in CONVOLUTIONS:

            def leave(module: nn.Module, inputs: Any, output: Tensor, name: str = name) -> None:
                made[id(output)] = (name, output)
                readers.times[id(output)] = 0  # the id was another tensor's before
                calls[name] += 1

            hooks.append(module.register_forward_hook(leave))
        elif type(module) in NORMS and module.running_mean is not None:

            def enter(module: nn.Module, inputs: Sequence[Tensor], name: str = name) -> None:
                calls[name] += 1
                if id(inputs[0]) in made:
                    met.append((Pair(made[id(inputs[0])][0], name), id(inputs[0])))

            hooks.append(module.register_forward_pre_hook(enter))
    with readers:
        output = call(images)
    for hook in hooks:
        hook.remove()
    readers.count(tensors(output))
    pairs = [pair for pair, i in met if readers.times[i] == 1 and calls[pair.convolution] == calls[pair.norm] == 1]
    return pairs, output


class _Readers(TorchFunctionMode):
    """How many operations read each tensor, by the tensor's id; asking for its shape is no reading."""

    def __init__(self) -> None:
        super().__init__()
        self.times: Counter[int] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if tensors(result):
            self.count(tensors((args, kwargs)))
        return result

    def count(self, read: Iterable[Tensor]) -> None:
        self.times.update({id(tensor) for tensor in read})


def tensors(tree: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
