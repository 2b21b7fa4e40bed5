"""Fold BatchNorm into the convolutions of networks of timm and of teachers; our blocks fold themselves, see fuse.py.

The pairs are traced in one call: modules may be nested in any way, but the tensors show which module reads which
output.
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

# Exact types only: weight-standardized convolutions would undo a fold, and other norms do more than BatchNorm.
CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
NORMS = (nn.BatchNorm2d, BatchNormAct2d)
# Largest change of an output, relative to its maximum, that counts as rounding in fp32. Most networks change by 1e-6;
# maxvit_base_tf_224 with random weights, whose map reaches 5,500, by 2e-3.
ROUNDING = 5e-3


class Pair(NamedTuple):
    """Names of a convolution and of the BatchNorm that is its only reader."""

    convolution: str
    norm: str


def batch_norms_left(model: nn.Module) -> int:
    """Count the BatchNorms that `model` still has; 0 if all are folded."""
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


def fold_batch_norms(model: nn.Module, call: Callable[[Tensor], Any], images: Tensor) -> None:
    """Fold, in place, each BatchNorm whose input is a convolution's output without another reader.

    BatchNorms before a convolution, on a skip, or behind an output with two readers are not changed.

    Args:
        model: the model, in eval mode.
        call: runs the model on `images` in the way it will be used.
        images: a batch.

    Raises:
        RuntimeError: the output changed.
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
            if not old.isfinite().all():
                continue  # weights that are not finite: who uses the outputs refuses them
            if not torch.allclose(new, old, rtol=0, atol=ROUNDING * float(old.abs().max())):
                raise RuntimeError("folding BatchNorm changed the model's output")


def traced_pairs(model: nn.Module, call: Callable[[Tensor], Any], images: Tensor) -> tuple[list[Pair], Any]:
    """Return the pairs that can be folded according to one call, and the call's output."""
    outputs: dict[int, tuple[str, Tensor]] = {}  # references keep the tensors alive, so that ids stay unique
    candidates: list[tuple[Pair, int]] = []
    calls: Counter[str] = Counter()
    hooks = []
    readers = _Readers()
    for name, module in model.named_modules():
        if type(module) in CONVOLUTIONS:

            def leave(module: nn.Module, inputs: Any, output: Tensor, name: str = name) -> None:
                outputs[id(output)] = (name, output)
                readers.times[id(output)] = 0  # another tensor may have had the id earlier
                calls[name] += 1

            hooks.append(module.register_forward_hook(leave))
        elif type(module) in NORMS and module.running_mean is not None:

            def enter(module: nn.Module, inputs: Sequence[Tensor], name: str = name) -> None:
                calls[name] += 1
                if id(inputs[0]) in outputs:
                    candidates.append((Pair(outputs[id(inputs[0])][0], name), id(inputs[0])))

            hooks.append(module.register_forward_pre_hook(enter))
    with readers:
        output = call(images)
    for hook in hooks:
        hook.remove()
    readers.count(tensors(output))
    pairs = [
        pair for pair, i in candidates if readers.times[i] == 1 and calls[pair.convolution] == calls[pair.norm] == 1
    ]
    return pairs, output


class _Readers(TorchFunctionMode):
    """Counts the operations that read each tensor, by the tensor's id; reading its shape does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.times: Counter[int] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if tensors(result):
            self.count(tensors((args, kwargs)))
        return result

    def count(self, read: Iterable[Tensor]) -> None:
        """Count one reading operation for each distinct tensor."""
        self.times.update({id(tensor) for tensor in read})


def tensors(tree: Any) -> list[Tensor]:
    """Return all tensors in nested tuples, lists and dicts."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
