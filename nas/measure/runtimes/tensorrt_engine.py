"""Run models by TensorRT 10 or newer, through its Python package; CUDA only."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.measure.runtime_spec import ArmError
from nas.measure.runtimes.contract import Runner, SideStream, arm_errors, import_optional, synchronize
from nas.measure.runtimes.onnx_graph import INPUT, exported, in_memory_layout, is_channels_last


def tensorrt(model: nn.Module, images: Tensor) -> Runner:
    """Build `model` as a TensorRT engine for exactly this shape, on torch's memory.

    Its precision is that of the model; fp32 may use TF32, the builder's default.

    Raises:
        ArmError: TensorRT is not installed, the device is no CUDA device, or the network cannot be built.
    """
    library = import_optional("tensorrt", "tensorrt")
    start = time.perf_counter()
    with torch.cuda.device(images.device):
        run = engine(library, model, images, SideStream(images.device))
        run(images)
        synchronize(images.device)
    return Runner(run, time.perf_counter() - start)


def engine(library: Any, model: nn.Module, images: Tensor, stream: SideStream) -> Engine:
    """Build the engine of a network and load it."""
    logger = library.Logger(library.Logger.ERROR)
    with exported("tensorrt", model, images) as path, arm_errors("tensorrt", RuntimeError):
        plan = _plan(library, logger, path)
        built = _require(library.Runtime(logger).deserialize_cuda_engine(plan), "load the engine that it built")
        return Engine(library, built, images, stream)


class Engine:
    """An engine whose outputs are bound once, its input at each call; it always returns the same tensors."""

    def __init__(self, library: Any, engine: Any, example: Tensor, stream: SideStream) -> None:
        self.stream, self.channels_last = stream, is_channels_last(example)
        self.engine = engine  # the context needs it alive
        self.context = engine.create_execution_context()
        if self.context is None:  # memory ran out
            raise torch.OutOfMemoryError("tensorrt could not set up a context, which takes device memory")
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        outputs = [name for name in names if engine.get_tensor_mode(name) == library.TensorIOMode.OUTPUT]
        types = _types(library)
        self.outputs = tuple(
            torch.empty(
                tuple(engine.get_tensor_shape(name)), dtype=types[engine.get_tensor_dtype(name)], device=example.device
            )
            for name in outputs
        )
        for name, tensor in zip(outputs, self.outputs, strict=True):
            self._bind(name, tensor)

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the engine on images (B, 3, H, W)."""
        dense = in_memory_layout(images, self.channels_last)
        self._bind(INPUT, dense)
        with self.stream.ordered():
            _require(self.context.execute_async_v3(self.stream.handle), "run the network")
        return self.outputs

    def _bind(self, name: str, tensor: Tensor) -> None:
        _require(self.context.set_tensor_address(name, tensor.data_ptr()), f"take the memory of {name}")


def _plan(library: Any, logger: Any, path: Path) -> Any:
    """Build the serialized engine of an ONNX file.

    The network is strongly typed: its precisions are those of the file. TensorRT 10 can also choose them itself
    (BuilderFlag.FP16), 11 cannot.
    """
    builder = library.Builder(logger)
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = library.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        reasons = [str(parser.get_error(i).desc()) for i in range(parser.num_errors)] or ["its log has the reason"]
        raise ArmError(f"runtime: tensorrt can't read this network: {reasons[0].splitlines()[0]}")
    return _require(builder.build_serialized_network(network, builder.create_builder_config()), "build this network")


def _require(result: Any, action: str) -> Any:
    """Return TensorRT's result of an action.

    Raises:
        ArmError: The result is None or False, which is how TensorRT reports failure.
    """
    if result is None or result is False:
        raise ArmError(f"runtime: tensorrt could not {action}; its log has the reason")
    return result


def _types(library: Any) -> dict[Any, torch.dtype]:
    kinds = library.DataType
    return {kinds.FLOAT: torch.float32, kinds.HALF: torch.float16, kinds.BF16: torch.bfloat16}
