"""What a teacher is: a frozen network with a summary vector and a spatial map, and how it is named and identified."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TeacherError(ValueError):
    """A teacher that cannot be had: unknown name, missing or altered weights. One line, names the choices."""


class TeacherOutput(NamedTuple):
    """Raw features: summary (B, Cs), spatial (B, C, h, w)."""

    summary: Tensor
    spatial: Tensor


class Teacher(nn.Module):
    """Base of the teachers: eval mode, no gradients, own resizing and normalisation.

    ``forward`` takes float images (B, 3, H, W), RGB in [0, 1], any square size. `min_px` is the smallest size the
    network describes well; smaller images are scaled up to it, so feed it the best image there is.
    """

    name: ClassVar[str]
    summary_dim: ClassVar[int]
    spatial_dim: ClassVar[int]
    min_px: ClassVar[int]
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
    """A teacher by name, not loaded yet: identity is known before its weights are read.

    `source` and `preprocessing` say where the numbers come from; both are part of the fingerprint.
    """

    name: str
    source: str
    preprocessing: str
    load: Callable[[], Teacher]
    min_px: int

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the weights' hash and the preprocessing."""
        return hashlib.sha256(f"{self.name}|{self.source}|{self.preprocessing}".encode()).hexdigest()[:16]


def at_least(images: Tensor, min_px: int) -> Tensor:
    """Images (B, 3, H, W) scaled up bilinearly so that the shorter side is `min_px`; larger ones as they are."""
    side = min(images.shape[-2:])
    if side >= min_px:
        return images
    size = [max(min_px, round(length * min_px / side)) for length in images.shape[-2:]]
    return F.interpolate(images, size=size, mode="bilinear", antialias=True)
