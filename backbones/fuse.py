"""Fuse models for deployment."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


def fuse(model: nn.Module) -> Any:
    """Return a copy of `model` in eval mode with BatchNorm folded into convolutions and constant position biases.

    Outputs are equal to 1e-5 in fp32; parameters of the copy don't require gradients. Modules with a method `fuse` fold
    themselves and return themselves (so that timm's `reparameterize_model` works too). Outer modules come first,
    because they may fold their children. A module with `fuses_parts` folds all its children itself. Networks
    (`Network`) stay in eval mode for good, because a BatchNorm that follows no convolution is left.
    """
    fused = copy.deepcopy(model).eval()
    _fold(fused)
    fused.requires_grad_(False)  # of what the folding has made, too
    fused.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    return fused


def _fold(module: nn.Module) -> None:
    fold = getattr(module, "fuse", None)
    if callable(fold):
        fold()
    if not getattr(module, "fuses_parts", False):
        for part in module.children():
            _fold(part)
