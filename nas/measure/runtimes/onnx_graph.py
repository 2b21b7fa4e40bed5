"""A network as an ONNX file, for the runtimes that read one."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from nas.measure.runtimes.contract import arm_errors, encoder, import_optional

INPUT = "images"


class Exportable(nn.Module):
    """What is written: the tensors of `encode` in their order, from images as they lie in memory.

    Images in channels-last layout come in as (B, H, W, 3), and turning them is part of the graph, where a runtime can
    merge it with what follows; else every call would copy its input before.
    """

    def __init__(self, model: nn.Module, channels_last: bool) -> None:
        super().__init__()
        self.model, self.channels_last = model, channels_last

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        with ExactNearest():
            out = encoder(self.model)(images.permute(0, 3, 1, 2) if self.channels_last else images)
        return tuple(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor))


class ExactNearest(TorchFunctionMode):
    """Nearest-neighbour resizing to an uneven multiple as a choice of rows and columns.

    ONNX says floor(place / scale), and runtimes take that in fp32: from 14 to 16 the ninth place, 8 / (16 / 14), is
    6.99 in ONNX Runtime, and E-RADIO's windows of 16 on a 224 px image see other pixels than in PyTorch.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_interpolate if func is F.interpolate else func)(*args, **(kwargs or {}))


def _interpolate(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", **rest: Any
) -> Tensor:
    sides = input.shape[2:]
    wanted = [size] * len(sides) if isinstance(size, int) else size
    if mode != "nearest" or wanted is None or all(out % side == 0 for out, side in zip(wanted, sides, strict=True)):
        return F.interpolate(input, size, scale_factor, mode, **rest)
    for axis, (side, out) in enumerate(zip(sides, wanted, strict=True), start=2):
        input = input.index_select(axis, torch.tensor(nearest(side, out), device=input.device))
    return input


def nearest(side: int, out: int) -> list[int]:
    """Which of `side` places PyTorch's "nearest" takes for each of `out`; in fp32 as its kernels do."""
    places = np.floor(np.arange(out, dtype=np.float32) * (np.float32(side) / np.float32(out)))
    return [min(int(place), side - 1) for place in places]


def is_channels_last(images: Tensor) -> bool:
    """Whether images (B, C, H, W) lie in memory as (B, H, W, C)."""
    return images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()


def in_memory_layout(images: Tensor, channels_last: bool) -> Tensor:
    """Images (B, C, H, W) as the contiguous tensor that a graph takes; a copy only where they lie otherwise."""
    return (images.permute(0, 2, 3, 1) if channels_last else images).contiguous()


@contextmanager
def exported(runtime: str, model: nn.Module, images: Tensor) -> Iterator[Path]:
    """An ONNX file of `model` for exactly the shape, type and layout of `images`, gone when the context ends.

    Its input is INPUT. ArmError where the exporter is not installed or can't express the network.
    """
    for name in ("onnx", "onnxscript"):
        import_optional(name, "onnx")
    with tempfile.TemporaryDirectory(prefix="backbone-nas-") as folder:
        path = Path(folder) / "network.onnx"
        with arm_errors(runtime, Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's notes to its own authors
            _write(model, images, path)
        yield path


def _write(model: nn.Module, images: Tensor, path: Path) -> None:
    channels_last = is_channels_last(images)
    module = Exportable(model, channels_last).eval()
    # Alike whoever calls; and traced here, for the exporter alone goes on to ways of tracing that miss ExactNearest.
    with torch.inference_mode(False), torch.no_grad():
        traced = torch.export.export(module, (in_memory_layout(images, channels_last),), strict=False)
        torch.onnx.export(traced, (), path, input_names=[INPUT], dynamo=True, verbose=False)
