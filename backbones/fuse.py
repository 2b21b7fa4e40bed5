"""The deploy form of a network."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


def fuse(model: nn.Module) -> Any:
    """A copy of `model` in eval mode with BatchNorm folded into convolutions and the position bias a constant.

    The function is the same to 1e-5 in fp32; parameters of the copy don't need gradients. A module that has a `fuse`
    method folds itself and returns itself (so that timm's `reparameterize_model` does the same); outer ones first,
    since they may fold what their parts have. One with `fuses_parts` folds its parts as well, and they are left alone.
    """
    fused = copy.deepcopy(model).eval().requires_grad_(False)
    _fold(fused)
    fused.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    return fused


def _fold(module: nn.Module) -> None:
    fold = getattr(module, "fuse", None)
    if callable(fold):
        fold()
    if not getattr(module, "fuses_parts", False):
        for part in module.children():
            _fold(part)
