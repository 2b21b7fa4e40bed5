"""Export a network as an ONNX file, for the runtimes that read one, and for `backbone-nas export`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
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
from nas.scratch import scratch_folder

INPUT = "images"
OPSETS = {torch.bfloat16: 22}  # the first one whose convolutions take bfloat16; else the exporter's default


class Exportable(nn.Module):
    """The exported module: images in their memory layout to the tensors of `encode` in their order.

    Channels-last images are passed as (B, H, W, 3). The permutation is part of the graph, where a runtime can merge it
    with the next operators; outside the graph, every call would copy its input.
    """

    def __init__(self, model: nn.Module, channels_last: bool) -> None:
        super().__init__()
        self.model, self.channels_last = model, channels_last

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images (B, 3, H, W), or (B, H, W, 3) for a channels-last graph, to all output tensors."""
        with ExactNearest():
            out = encoder(self.model)(images.permute(0, 3, 1, 2) if self.channels_last else images)
        return tuple(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor))


class ExactNearest(TorchFunctionMode):
    """Replace nearest-neighbor resizing by a factor that is not whole with a selection of rows and columns.

    ONNX defines floor(position / scale), which runtimes compute in fp32: from 14 to 16, position 8 gives
    8 / (16 / 14) = 6.99 in ONNX Runtime, so that E-RADIO's windows of 16 on a 224 px image get other pixels than in
    PyTorch.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_interpolate if func is F.interpolate else func)(*args, **(kwargs or {}))


def _interpolate(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", **rest: Any
) -> Tensor:
    sides = input.shape[2:]
    out_sides = [size] * len(sides) if isinstance(size, int) else size
    if (
        mode != "nearest"
        or out_sides is None
        or all(out % side == 0 for out, side in zip(out_sides, sides, strict=True))
    ):
        return F.interpolate(input, size, scale_factor, mode, **rest)
    for axis, (side, out) in enumerate(zip(sides, out_sides, strict=True), start=2):
        input = input.index_select(axis, torch.tensor(nearest(side, out), device=input.device))
    return input


def nearest(side: int, out: int) -> list[int]:
    """Return the source position in `side` of each of `out` positions, in fp32 as PyTorch's kernels for "nearest"."""
    positions = np.floor(np.arange(out, dtype=np.float32) * (np.float32(side) / np.float32(out)))
    return [min(int(position), side - 1) for position in positions]


def is_channels_last(images: Tensor) -> bool:
    """Return whether images (B, C, H, W) are stored as (B, H, W, C)."""
    return images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()


def in_memory_layout(images: Tensor, channels_last: bool) -> Tensor:
    """Return images (B, C, H, W) as the contiguous tensor that a graph takes, a view where their layout allows it."""
    return (images.permute(0, 2, 3, 1) if channels_last else images).contiguous()


@contextmanager
def exported(runtime: str, model: nn.Module, images: Tensor) -> Iterator[Path]:
    """Export `model` to a temporary ONNX file for exactly the shape, type and layout of `images`; its input is INPUT.

    Raises:
        ArmError: The exporter is not installed or cannot express the network.
    """
    for name in ("onnx", "onnxscript"):
        import_optional(name, "onnx")
    with scratch_folder("nas-onnx-") as folder:
        path = folder / "network.onnx"
        with arm_errors(runtime, Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the exporter's own code
            write_graph(model, images, path)
        yield path


def write_graph(
    model: nn.Module,
    images: Tensor,
    path: Path,
    *,
    dynamic_shapes: Any = None,
    output_names: Sequence[str] | None = None,
    external_data: bool = True,
) -> None:
    """Trace `model` and write it to an ONNX file in the types of its weights and `images`; its input is INPUT.

    Types are part of the graph, so that what the model computes in fp32 stays so in a graph of half precision.

    Args:
        model: The model in eval mode, in its precision and form.
        images: Example inputs, (B, 3, H, W), in the model's type. Channels-last ones are passed as (B, H, W, 3).
        path: File to write.
        dynamic_shapes: Free dimensions, as `torch.export` takes them; None: exactly the shape of `images`.
        output_names: Names of the output tensors; None: the exporter's.
        external_data: Whether weights may be in a file of their own.
    """
    channels_last = is_channels_last(images)
    module = Exportable(model, channels_last).eval()
    # The graph must not depend on the caller's mode. Tracing happens here, because the exporter would fall back to ways
    # of tracing that miss ExactNearest.
    with torch.inference_mode(False), torch.no_grad():
        traced = torch.export.export(
            module, (in_memory_layout(images, channels_last),), dynamic_shapes=dynamic_shapes, strict=False
        )
        names = None if output_names is None else list(output_names)
        torch.onnx.export(
            traced, (), path, input_names=[INPUT], output_names=names, dynamo=True, verbose=False,
            external_data=external_data, opset_version=OPSETS.get(images.dtype),
        )  # fmt: skip
