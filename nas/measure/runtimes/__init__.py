"""Runtimes: what executes a network that is ready on its device. Names meet functions in `RUNNERS`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from nas.measure.arms import ArmError
from nas.measure.runtimes.compiled import compiled
from nas.measure.runtimes.contract import Runner, encoder
from nas.measure.runtimes.onnx_runtime import onnxruntime
from nas.measure.runtimes.tensorrt_engine import tensorrt

__all__ = ["RUNNERS", "Runner", "runner"]


def runner(runtime: str, model: nn.Module, images: Tensor) -> Runner:
    """`model`, in eval mode and already in its arm's precision, layout and form, on a runtime.

    It is called by `encode`, or by its forward where it has none. ArmError where the runtime is not installed or can't
    run this network here; torch.OutOfMemoryError where memory ran out.
    """
    if runtime not in RUNNERS:
        raise ArmError(f"arm: {runtime!r} is unknown; choices: {', '.join(RUNNERS)}")
    return RUNNERS[runtime](model, images)


def eager(model: nn.Module, images: Tensor) -> Runner:
    """PyTorch as it is."""
    return Runner(encoder(model))


RUNNERS: dict[str, Callable[[nn.Module, Tensor], Runner]] = {
    "eager": eager,
    "compiled": partial(compiled, "compiled"),
    "reduce-overhead": partial(compiled, "reduce-overhead"),
    "max-autotune-no-cudagraphs": partial(compiled, "max-autotune-no-cudagraphs"),
    "onnxruntime": onnxruntime,
    "tensorrt": tensorrt,
}
