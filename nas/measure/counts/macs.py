"""Multiply-accumulates (MACs) of one image, counted on the meta device: exact, in milliseconds, without memory.

A MAC is one multiplication and addition of a matrix product, convolution or attention; x2 gives FLOPs. Everything else
that runs and does arithmetic (normalisation, activations, pooling ...) is not counted but listed: nothing is left out
silently.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from nas.measure.counts.ledger import Ledger
from nas.measure.counts.tally import Tally


@dataclass(frozen=True)
class Counts:
    """What one image costs."""

    macs: int
    params: int  # all of the model's parameters, those of a classifier that is not run included
    module_macs: dict[str, int]  # qualified module name ("" is the model) -> MACs inside it
    uncounted: dict[str, int]  # operator with arithmetic but no MACs ("elementwise" for pointwise) -> elements produced


class Encoder(nn.Module):
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
    encoder = Encoder(model if _is_hollow(model) else meta_copy(model))
    tally = Tally()
    ledger = Ledger(encoder.model, tally)
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
