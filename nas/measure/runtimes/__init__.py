"""Execute a network that is ready on its device: `RUNNERS` maps the names of runtimes to functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from nas.measure.runtime_spec import ArmError, check_runs_here, precision_of
from nas.measure.runtimes.compiled import compiled
from nas.measure.runtimes.contract import Runner, encoder
from nas.measure.runtimes.onnx_runtime import onnxruntime
from nas.measure.runtimes.tensorrt_engine import tensorrt

__all__ = ["RUNNERS", "Runner", "runner"]


def runner(runtime: str, model: nn.Module, images: Tensor) -> Runner:
    """Prepare a model for a runtime; its `encode` is run, or its forward where it has none.

    Args:
        runtime: One of `RUNNERS`.
        model: The model in eval mode, in its precision, layout and form.
        images: Example inputs, whose shape, type, layout and device are those of every later call.

    Raises:
        ArmError: The runtime is unknown, not installed, or cannot run this model here.
        torch.OutOfMemoryError: Memory is too small.
    """
    if runtime not in RUNNERS:
        raise ArmError(f"runtime: {runtime!r} is unknown; choices: {', '.join(RUNNERS)}")
    check_runs_here(images.device.type, runtime, precision_of(images.dtype))
    return RUNNERS[runtime](model, images)


def eager(model: nn.Module, images: Tensor) -> Runner:
    """Run a model in PyTorch's eager mode."""
    return Runner(encoder(model))


RUNNERS: dict[str, Callable[[nn.Module, Tensor], Runner]] = {
    "eager": eager,
    "compiled": partial(compiled, "compiled"),
    "reduce-overhead": partial(compiled, "reduce-overhead"),
    "max-autotune-no-cudagraphs": partial(compiled, "max-autotune-no-cudagraphs"),
    "onnxruntime": onnxruntime,
    "tensorrt": tensorrt,
}
