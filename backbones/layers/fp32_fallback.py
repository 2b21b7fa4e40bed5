"""Arithmetic that a CPU lacks."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


def fp32_fallback(module: nn.Module, x: Tensor, *others: Any) -> Tensor:
    """`module(x, *others)`; for bfloat16 on a CPU without instructions for it, in fp32 and rounded. Eval mode only.

    There PyTorch's products of bfloat16 matrices run 14 times slower than in fp32, convolutions up to 50 times (AVX2,
    torch 2.13). Weights stay in bfloat16 and are widened call by call, at a small part of what the products take.
    """
    if module.training or torch.compiler.is_compiling() or not lacks(x):
        y: Tensor = module(x, *others)
        return y
    own = itertools.chain(module.named_parameters(), module.named_buffers())
    wide = {name: t.float() for name, t in own if t.is_floating_point()}
    y = functional_call(module, wide, (x.float(), *others))
    return y.to(x.dtype)


def lacks(x: Tensor) -> bool:
    """Whether the type of `x` is bfloat16 and its device a CPU that computes with wider types only."""
    return x.dtype is torch.bfloat16 and x.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
