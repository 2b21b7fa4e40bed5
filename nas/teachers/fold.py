"""BatchNorm folded into the convolution before it, for frozen teachers: a third fewer passes over memory."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn


def fold_batchnorms(net: nn.Module) -> None:
    """Fold, in place, every BatchNorm2d that directly follows a convolution among its siblings, in eval mode.

    timm's BatchNormAct2d leaves its activation in its place, a plain one an identity.
    """
    for parent in net.modules():
        children = list(parent.named_children())
        for (_, conv), (name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                absorb(conv, norm)
                setattr(parent, name, getattr(norm, "act", nn.Identity()))


@torch.no_grad()
def absorb(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Make `conv` compute what `conv` then `norm` (running statistics) computed."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("only a BatchNorm with running statistics can be folded")
    scale = (norm.running_var + norm.eps).rsqrt()
    shift = -norm.running_mean * scale
    if norm.affine:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    conv.weight.mul_(scale[:, None, None, None])
    conv.bias = nn.Parameter(shift, requires_grad=False)
