"""Whether an arm computes what the network computes: its outputs against fp32 eager, before anything is timed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

# Error that is still rounding, by precision: 25 nets came to 1.3e-6, 1.6e-3 and 1.4e-2 at most (LOG.md). cuDNN may use
# TF32 in what is called fp32.
TOLERANCES = {"fp32": 5e-3, "fp16": 1e-2, "bf16": 5e-2}
IMAGES = 2  # enough to tell


@dataclass(frozen=True)
class Check:
    """error: of the worst output, Euclidean norm of the difference over that of the truth."""

    error: float
    correct: bool


def truth(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Outputs of the network as it was trained, eager, fp32, NCHW, of fp32 `images` on their device, one by one."""
    trained = copy.deepcopy(model).eval().requires_grad_(False).to(images.device, torch.float32)
    with torch.inference_mode():
        each = [outputs(getattr(trained, "encode", trained), image) for image in images.contiguous()[:, None]]
    return [torch.cat(parts) for parts in zip(*each, strict=True)]


def check(run: Callable[[Tensor], Any], images: Tensor, wanted: list[Tensor], precision: str) -> Check:
    """Compare what `run` makes of the first of `images` with the truth."""
    with torch.inference_mode():
        found = outputs(run, images)
    if [f.shape[1:] for f in found] != [w.shape[1:] for w in wanted]:
        return Check(float("inf"), False)
    errors = [_error(f[: len(w)].float(), w[: len(f)]) for f, w in zip(found, wanted, strict=True)]
    worst = float(torch.tensor(errors).max())  # unlike Python's max, NaN wins
    return Check(worst, worst <= TOLERANCES[precision] and all(bool(f.isfinite().all()) for f in found))


def outputs(run: Callable[[Tensor], Any], images: Tensor) -> list[Tensor]:
    """Every tensor that `run` gives, copied: some runtimes write the next call's into the same memory."""
    return [leaf.clone() for leaf in tree_leaves(run(images)) if isinstance(leaf, Tensor)]


def _error(found: Tensor, wanted: Tensor) -> float:
    return float(torch.linalg.vector_norm(found - wanted) / torch.linalg.vector_norm(wanted).clamp(min=1e-12))
