"""Activation fingerprints: 16 numbers that a teacher's features must repeat on one fixed image.

A hash of the weights can't see that the network is fed wrongly. These numbers can: other mean or deviation, swapped
colours, another resize, another activation function or a changed library all move them. Each is a projection of the
features on a fixed pattern of signs, in units of the features' own size, so a difference of 0.01 says that the features
moved by about a hundredth of their length.

The embedded teachers' numbers are recorded in a JSON file beside this module (``python -m nas.teachers`` writes
it) and compared whenever they are loaded, which takes 3 to 16 ms a teacher.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.teachers.base import Teacher, TeacherError

RECORDED = Path(__file__).with_name("activations.json")
NUMBERS = 16
TOLERANCE = 5e-4  # see `same_activations`


@torch.no_grad()
def activation_fingerprint(teacher: Teacher) -> tuple[float, ...]:
    """16 numbers from the teacher's outputs on the fixed image, in fp32 on the device that the teacher is on.

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
    """Whether two fingerprints are of the same features: root mean square difference up to 0.0005.

    Measured on the embedded teachers and small timm networks: thread count and memory format move it by 1e-6,
    OpenAI's mean and deviation for ImageNet's by 0.0009 to 0.08, another resize by 0.0005 to 0.6, swapped colours by
    0.01 to 0.7 (XFeat sees grey: not at all). Rounding weights to bf16 moves it by 0.001 to 0.05, as much as mistakes
    do, so it counts as another teacher: the fingerprint is taken in fp32, whatever precision the features are then
    computed in.
    """
    return len(a) == len(b) and distance(a, b) <= TOLERANCE


def distance(a: Sequence[float], b: Sequence[float]) -> float:
    """Root mean square difference of two fingerprints."""
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a))


def checked(make: Callable[[], Teacher]) -> Callable[[], Teacher]:
    """`make` with its teacher's activations compared to the recorded ones: TeacherError where they differ."""

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
    """Teacher fingerprint -> its recorded numbers."""
    return {entry["fingerprint"]: tuple(entry["numbers"]) for entry in json.loads(RECORDED.read_text()).values()}


def described(features: Tensor, count: int) -> tuple[float, ...]:
    """`count` numbers of features (1, ...): the log of their root mean square, and `count` - 1 signed sums of them.

    A signed sum is divided by the features' length: about normal, with deviation 1.
    """
    values = features[0].double().flatten().cpu().numpy()
    length = float(np.linalg.norm(values)) or 1.0
    sums = signs(len(values), count - 1) @ values / length
    return tuple(round(float(x), 6) for x in (math.log(length / math.sqrt(len(values))), *sums))


@cache
def signs(length: int, count: int) -> NDArray[np.int8]:
    """A fixed (count, length) of -1 and 1. RandomState's stream is frozen for good (NEP 19), a Generator's isn't."""
    return (2 * np.random.RandomState(length % 2**31).randint(0, 2, (count, length), dtype=np.int8) - 1).astype(np.int8)


def fixed_image(side_px: int) -> Tensor:
    """An image (1, 3, side, side) in [0, 1] with structure at every scale and other colours in every channel."""
    draw = np.random.RandomState(0)
    image = np.zeros((3, side_px, side_px))
    for block in (1, 4, 16, 64):
        cells = -(-side_px // block)
        octave = draw.randint(0, 256, (3, cells, cells)).repeat(block, 1).repeat(block, 2)
        image += octave[:, :side_px, :side_px]
    image = image / 1020 * np.array([0.9, 0.6, 0.3])[:, None, None] + np.array([0.1, 0.0, 0.3])[:, None, None]
    return torch.from_numpy(image).float()[None]
