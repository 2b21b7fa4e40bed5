"""Teachers: frozen networks with a summary vector and a spatial map, their identities and activation fingerprints.

An activation fingerprint is 16 numbers that a teacher's features must repeat on one fixed image. A hash of the weights
cannot tell that the network is fed wrongly; these numbers can: another mean or deviation, swapped colors, another
resize, another activation function or a changed library all move them. Each is a projection of the features on a fixed
pattern of signs, in units of the features' own size: a difference of 0.01 says that the features moved by about a
hundredth of their length. The numbers of the built-in teachers are recorded in ``activations.json``
(``python -m nas.teachers`` writes it) and compared at every load, which takes 3 to 16 ms a teacher.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nas.cli import OperationFailed

RECORDED = Path(__file__).with_name("activations.json")
NUMBERS = 16
TOLERANCE = 5e-4  # see `same_activations`


class TeacherError(ValueError):
    """A teacher that cannot be loaded: unknown name, missing or altered weights. One line, names the choices."""


class TeacherUnavailable(TeacherError, OperationFailed):
    """Weights that cannot be fetched now; the message says how to get them by hand."""


class TeacherOutput(NamedTuple):
    """Raw features: summary (B, Cs), None where a teacher has none; spatial (B, C, h, w)."""

    summary: Tensor | None
    spatial: Tensor


class Teacher(nn.Module):
    """Base of the teachers: eval mode, no gradients, own resizing and normalization.

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
        """Set eval mode without gradients; kernels channels-last, which convolves faster on CPUs and GPUs."""
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
        """Return 16 hex digits over the weights' hash and the preprocessing."""
        return hashlib.sha256(f"{self.network}|{self.sha256()}|{self.preprocessing}".encode()).hexdigest()[:16]

    @property
    def slug(self) -> str:
        """Return the name as a file name: letters, digits and ``._-``."""
        return re.sub(r"[^A-Za-z0-9._-]", "-", self.name)


def at_least(images: Tensor, min_px: int) -> Tensor:
    """Scale images (B, 3, H, W) up bilinearly so that the shorter side is `min_px`; larger ones stay."""
    side = min(images.shape[-2:])
    if side >= min_px:
        return images
    size = [max(min_px, round(length * min_px / side)) for length in images.shape[-2:]]
    return F.interpolate(images, size=size, mode="bilinear", antialias=True)


@torch.no_grad()
def activation_fingerprint(teacher: Teacher) -> tuple[float, ...]:
    """Return 16 numbers from the teacher's outputs on the fixed image, in fp32 on the teacher's device.

    The image is smaller than the teacher's own size, so that its resize is part of it. Half of the numbers are the
    summary's where there is one.
    """
    device = next(teacher.parameters()).device
    image = fixed_image(3 * teacher.source_px // 4).to(device)
    with torch.autocast(device.type, enabled=False), torch.backends.cudnn.flags(allow_tf32=False):
        summary, spatial = teacher(image)
    if summary is None:
        return described(spatial, NUMBERS)
    return described(summary, NUMBERS // 2) + described(spatial, NUMBERS // 2)


def same_activations(a: Sequence[float], b: Sequence[float]) -> bool:
    """Tell whether two fingerprints are of the same features: root mean square difference up to 0.0005.

    Measured on the built-in teachers and small timm networks: thread count and memory format move it by 1e-6,
    OpenAI's mean and deviation for ImageNet's by 0.0009 to 0.08, another resize by 0.0005 to 0.6, swapped colors by
    0.01 to 0.7 (XFeat sees grey: not at all). Rounding weights to bf16 moves it by 0.001 to 0.05, as much as mistakes
    do, so it counts as another teacher: the fingerprint is taken in fp32, whatever precision the features are then
    computed in.
    """
    return len(a) == len(b) and distance(a, b) <= TOLERANCE


def distance(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the root mean square difference of two fingerprints."""
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a))


def checked(make: Callable[[], Teacher]) -> Callable[[], Teacher]:
    """Wrap `make` to compare its teacher's activations with the recorded ones: TeacherError where they differ."""

    def load() -> Teacher:
        teacher = make()
        recorded = recorded_activations().get(teacher.fingerprint, ())
        found = activation_fingerprint(teacher)
        if recorded and not same_activations(found, recorded):
            raise TeacherError(
                f"teacher {teacher.name}: its features are not the recorded ones (they moved by"
                f" {distance(found, recorded):.2g} of their size): torch or timm compute it differently here"
            )
        return teacher

    return load


@cache
def recorded_activations() -> dict[str, tuple[float, ...]]:
    """Return the recorded numbers by the teacher's fingerprint."""
    return {entry["fingerprint"]: tuple(entry["numbers"]) for entry in json.loads(RECORDED.read_text()).values()}


def described(features: Tensor, count: int) -> tuple[float, ...]:
    """Project features (1, ...) to `count` numbers: the log of their root mean square, and signed sums of them.

    A signed sum is divided by the features' length: about normal, with deviation 1.
    """
    values = features[0].double().flatten().cpu().numpy()
    length = float(np.linalg.norm(values)) or 1.0
    sums = signs(len(values), count - 1) @ values / length
    return tuple(round(float(x), 6) for x in (math.log(length / math.sqrt(len(values))), *sums))


@cache
def signs(length: int, count: int) -> NDArray[np.int8]:
    """Draw fixed signs (count, length). RandomState's stream is frozen for good (NEP 19), a Generator's isn't."""
    return (2 * np.random.RandomState(length % 2**31).randint(0, 2, (count, length), dtype=np.int8) - 1).astype(np.int8)


def fixed_image(side_px: int) -> Tensor:
    """Make an image (1, 3, side, side) in [0, 1] with structure at every scale and other colors in every channel."""
    draw = np.random.RandomState(0)
    image = np.zeros((3, side_px, side_px))
    for block in (1, 4, 16, 64):
        cells = -(-side_px // block)
        octave = draw.randint(0, 256, (3, cells, cells)).repeat(block, 1).repeat(block, 2)
        image += octave[:, :side_px, :side_px]
    image = image / 1020 * np.array([0.9, 0.6, 0.3])[:, None, None] + np.array([0.1, 0.0, 0.3])[:, None, None]
    return torch.from_numpy(image).float()[None]


def fold_batchnorms(net: nn.Module) -> None:
    """Fold, in place, every BatchNorm2d in eval mode into the convolution before it: a third fewer passes over memory.

    Only direct siblings are folded. timm's BatchNormAct2d leaves its activation in its place, a plain one an identity.
    """
    for parent in net.modules():
        children = list(parent.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, getattr(norm, "act", nn.Identity()))
