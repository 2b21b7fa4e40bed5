"""Run bfloat16 modules in fp32 on CPUs that have no instructions for bfloat16."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map


def fp32_fallback(module: nn.Module, x: Tensor, *others: Any) -> Any:
    """Return `module(x, *others)`, computed in fp32 and rounded where the CPU has no bfloat16. Eval mode only.

    On such a CPU PyTorch's products of bfloat16 matrices run 14 times slower than in fp32, convolutions up to 50 times
    (AVX2, torch 2.13). Weights stay in bfloat16 and are converted at each call, at a small share of the products' time.
    """
    if module.training or torch.compiler.is_compiling() or not lacks_bfloat16(x):
        return module(x, *others)
    tensors = itertools.chain(module.named_parameters(), module.named_buffers())
    fp32 = {name: t.float() for name, t in tensors if t.is_floating_point()}
    y = functional_call(module, fp32, (x.float(), *others))
    return tree_map(lambda each: each.to(x.dtype) if isinstance(each, Tensor) else each, y)


def lacks_bfloat16(x: Tensor) -> bool:
    """Tell whether `x` is bfloat16 on a CPU without instructions for it."""
    return x.dtype is torch.bfloat16 and x.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
