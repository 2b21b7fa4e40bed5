"""Safetensors files of the size and header of real ones, whose tensors are holes: they take no space on the disk."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch

from nas.teachers.timm_networks import create, parse

Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(teacher: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a network's tensors, at its own input size, as its file on the hub has them."""
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in create(parse(parse(teacher).network)).state_dict().items()}


def write_holes(path: Path, shapes: Shapes) -> Path:
    """Write a file of fp32 zeros in these shapes."""
    header: dict[str, object] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path
