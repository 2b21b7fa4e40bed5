"""What a teacher is: a frozen network with a summary vector and a spatial map, and how it is named and identified."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TeacherError(ValueError):
    """A teacher that cannot be had: unknown name, missing or altered weights. One line, names the choices."""


class TeacherOutput(NamedTuple):
    """Raw features: summary (B, Cs), None where a teacher has none; spatial (B, C, h, w)."""

    summary: Tensor | None
    spatial: Tensor


class Teacher(nn.Module):
    """Base of the teachers: eval mode, no gradients, own resizing and normalisation.

    ``forward`` takes float images (B, 3, H, W), RGB in [0, 1], any square size. `source_px` is the side it wants to be
    fed; `summary_dim` is 0 where it has no summary.
    """

    name: str
    summary_dim: int
    spatial_dim: int
    source_px: int
    fingerprint: str

    def forward(self, images: Tensor) -> TeacherOutput:
        raise NotImplementedError

    def freeze(self) -> None:
        """Eval mode, no gradients; kernels channels-last, which convolves faster on CPUs and GPUs."""
        self.eval().requires_grad_(False)
        for parameter in self.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class TeacherSpec:
    """A teacher by name, not loaded yet: identity is known without running the network.

    `name` is what the user wrote; `network` the network's full name. `network`, the weight file's `sha256` and
    `preprocessing` are the identity. Asking for the sha256 may fetch the weights.
    """

    name: str
    network: str
    sha256: Callable[[], str]
    preprocessing: str
    load: Callable[[], Teacher]
    source_px: int

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over the weights' hash and the preprocessing."""
        return hashlib.sha256(f"{self.network}|{self.sha256()}|{self.preprocessing}".encode()).hexdigest()[:16]

    @property
    def slug(self) -> str:
        """The name as a file name: letters, digits and ``._-``."""
        return re.sub(r"[^A-Za-z0-9._-]", "-", self.name)


def at_least(images: Tensor, min_px: int) -> Tensor:
    """Images (B, 3, H, W) scaled up bilinearly so that the shorter side is `min_px`; larger ones as they are."""
    side = min(images.shape[-2:])
    if side >= min_px:
        return images
    size = [max(min_px, round(length * min_px / side)) for length in images.shape[-2:]]
    return F.interpolate(images, size=size, mode="bilinear", antialias=True)
