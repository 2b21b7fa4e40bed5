"""Define teachers: frozen networks with a summary vector and a spatial map, identified by weights and activations.

An activation fingerprint is 16 numbers that a teacher's features must repeat on one fixed image. A hash of the weights
does not cover the preprocessing; these numbers do: another mean or deviation, swapped colors, another resize, another
activation function or a changed library all move them. Each is a projection of the features on a fixed pattern of
signs, in units of the features' length: a difference of 0.01 means that the features moved by about a hundredth of it.
The numbers of own teachers, those with a module here (`nas.teachers.TEACHERS`), are recorded in ``activations.json``
(``python -m nas.teachers`` writes it) and compared at every load, which takes 3 to 16 ms a teacher.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, wraps
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from nas.cli import OperationFailed
from nas.study.teacher_names import TeacherError

ACTIVATIONS_FILE = Path(__file__).with_name("activations.json")
FINGERPRINT_NUMBERS = 16
TOLERANCE = 5e-4  # root mean square difference, see `same_activations`


class TeacherUnavailable(TeacherError, OperationFailed):
    """The wheels of built-in teachers cannot be installed now; the message says how to install them by hand."""


class TeacherOutput(NamedTuple):
    """Raw features: summary (B, Cs), None where a teacher has none; spatial (B, C, h, w)."""

    summary: Tensor | None
    spatial: Tensor


class Teacher(nn.Module):
    """Base of the teachers: a network in eval mode without gradients that resizes and normalizes its input itself.

    `source_px` is the preferred side of its images; `summary_dim` is 0 without a summary. One input has `tiles` x
    `tiles` images.
    """

    name: str
    summary_dim: int
    spatial_dim: int
    source_px: int
    fingerprint: str
    tiles: int = 1

    def forward(self, images: Tensor) -> TeacherOutput:
        """Compute the features of float images (B, 3, H, W), RGB in [0, 1], square and of any size."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Set eval mode without gradients, and channels-last kernels, which convolve faster on CPUs and GPUs."""
        self.eval().requires_grad_(False)
        for parameter in self.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class TeacherSpec:
    """A teacher that is not loaded yet.

    `name` is the user's, `network` the network's full name. `network`, the weight file's `sha256` and `preprocessing`
    identify the teacher. Calling `sha256` may download the weights. `check` says where the weights come from; it reads
    no tensor and downloads nothing, and raises TeacherError where there are none or they are another network's.
    `widths` are the channels of the summary (0: none) and of the map. `map_side` takes the side of a square image in px
    to the side of its map in tokens; None where it is unknown. It is part of the cache's key. `is_here` tells whether
    `load` needs no network connection. `license` is that of the weights; None where it is unknown. `name_for_side`
    takes a side in tokens to the teacher's name at an input size whose maps have that side or more; None where there is
    none.
    """

    name: str
    network: str
    sha256: Callable[[], str]
    preprocessing: str
    load: Callable[[], Teacher]
    source_px: int
    widths: tuple[int, int]
    check: Callable[[], str]
    map_side: Callable[[int], int] | None = None
    is_here: Callable[[], bool] = lambda: True
    license: str | None = None
    name_for_side: Callable[[int], str | None] = lambda side: None

    def cached_side(self, image_px: int) -> int | None:
        """Return the side of the map, in tokens, in a cache of images of `image_px`; None where it is unknown."""
        return self.map_side and self.map_side(max(self.source_px, image_px))

    @cached_property
    def fingerprint(self) -> str:
        """Return 16 hex digits over the weights' hash and the preprocessing."""
        return hashlib.sha256(f"{self.network}|{self.sha256()}|{self.preprocessing}".encode()).hexdigest()[:16]

    @property
    def slug(self) -> str:
        """Return the name as a file name: letters, digits and ``._-``."""
        return re.sub(r"[^A-Za-z0-9._-]", "-", self.name)


def complete_mosaics(images: Tensor, side: int) -> Tensor:
    """Return images (B, ...) that fill mosaics of `side` x `side`: the last one with images from the batch's start.

    They resemble its own images more than gray does.
    """
    tiles = side * side
    count = -(-len(images) // tiles) * tiles
    return images[torch.arange(count, device=images.device) % len(images)] if count > len(images) else images


def enlarge_to(images: Tensor, min_px: int) -> Tensor:
    """Enlarge images (B, 3, H, W) bilinearly until the shorter side is `min_px`; return larger ones unchanged."""
    side = min(images.shape[-2:])
    if side >= min_px:
        return images
    size = [max(min_px, round(length * min_px / side)) for length in images.shape[-2:]]
    return F.interpolate(images, size=size, mode="bilinear", antialias=True)


@torch.inference_mode()
def run_teacher(teacher: Teacher, images: Tensor, precision: str) -> TeacherOutput:
    """Compute the features of uint8 images (B, 3, H, W) on the teacher's device, in a precision; they are fp32 tensors.

    In fp32, PyTorch multiplies matrices on a GPU without TF32 (`torch.backends.cuda.matmul.allow_tf32` is False by
    default), and so without tensor cores; convolutions may use TF32 (`torch.backends.cudnn.allow_tf32` is True). In
    bf16, autocast rounds the factors of matrix products and convolutions to 8 significant bits; weights stay in fp32.

    Args:
        teacher: The teacher.
        images: RGB in 0..255, square and of any size.
        precision: "fp32" or "bf16".
    """
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        summary, spatial = teacher(images.float() / 255)
    return TeacherOutput(None if summary is None else summary.float(), spatial.float())


@torch.no_grad()
def activation_fingerprint(teacher: Teacher) -> tuple[float, ...]:
    """Return 16 numbers from the teacher's outputs on the fixed image, in fp32 on the teacher's device.

    The image is smaller than the teacher's input, so that the numbers depend on its resize. Half of the numbers are
    the summary's if there is one.
    """
    device = next(teacher.parameters()).device
    image = fixed_image(3 * teacher.source_px // 4).to(device)
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with torch.autocast(device.type, enabled=False), exact:
        summary, spatial = teacher(image)
    if summary is None:
        return project_features(spatial, FINGERPRINT_NUMBERS)
    return project_features(summary, FINGERPRINT_NUMBERS // 2) + project_features(spatial, FINGERPRINT_NUMBERS // 2)


def same_activations(a: Sequence[float], b: Sequence[float]) -> bool:
    """Tell whether two fingerprints are of the same features: root mean square difference up to 0.0005.

    Measured on the built-in teachers and small timm networks: thread count and memory format move it by 1e-6,
    OpenAI's mean and deviation for ImageNet's by 0.0009 to 0.08, another resize by 0.0005 to 0.6, swapped colors by
    0.01 to 0.7 (but not XFeat, which sees gray). Rounding weights to bf16 moves it by 0.001 to 0.05, as much as
    mistakes do, so the fingerprint is taken in fp32, whatever precision computes the features later.
    """
    return len(a) == len(b) and distance(a, b) <= TOLERANCE


def distance(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the root mean square difference of two fingerprints."""
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a))


def check_activations(make: Callable[[], Teacher]) -> Callable[[], Teacher]:
    """Wrap `make` to compare its teacher's activations with the recorded ones: TeacherError where they differ."""

    @wraps(make)
    def load() -> Teacher:
        teacher = make()
        recorded = recorded_activations().get(teacher.fingerprint, ())
        activations = activation_fingerprint(teacher)
        if recorded and not same_activations(activations, recorded):
            raise TeacherError(
                f"teacher {teacher.name}: its features differ from the recorded ones by"
                f" {distance(activations, recorded):.2g} of their length: torch or timm compute it differently here"
            )
        return teacher

    return load


@cache
def recorded_activations() -> dict[str, tuple[float, ...]]:
    """Return the recorded numbers by the teacher's fingerprint."""
    return {
        entry["fingerprint"]: tuple(entry["numbers"]) for entry in json.loads(ACTIVATIONS_FILE.read_text()).values()
    }


def project_features(features: Tensor, count: int) -> tuple[float, ...]:
    """Project features (1, ...) to `count` numbers: the log of their root mean square, and signed sums of them.

    A signed sum is divided by the features' length: about normal, with deviation 1.
    """
    values = features[0].double().flatten().cpu().numpy()
    length = float(np.linalg.norm(values)) or 1.0
    sums = signs(len(values), count - 1) @ values / length
    return tuple(round(float(x), 6) for x in (math.log(length / math.sqrt(len(values))), *sums))


@cache
def signs(length: int, count: int) -> NDArray[np.int8]:
    """Draw fixed signs (count, length). RandomState's stream never changes (NEP 19), unlike a Generator's."""
    return (2 * np.random.RandomState(length % 2**31).randint(0, 2, (count, length), dtype=np.int8) - 1).astype(np.int8)


def fixed_image(side_px: int) -> Tensor:
    """Make an image (1, 3, side, side) in [0, 1] with structure at every scale and different channels."""
    draw = np.random.RandomState(0)
    image = np.zeros((3, side_px, side_px))
    for block in (1, 4, 16, 64):
        cells = -(-side_px // block)
        octave = draw.randint(0, 256, (3, cells, cells)).repeat(block, 1).repeat(block, 2)
        image += octave[:, :side_px, :side_px]
    image = image / 1020 * np.array([0.9, 0.6, 0.3])[:, None, None] + np.array([0.1, 0.0, 0.3])[:, None, None]
    return torch.from_numpy(image).float()[None]
