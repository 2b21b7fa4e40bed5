"""TensorRT, version 10 or newer, through its Python package. CUDA only."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.measure.arms import ArmError
from nas.measure.runtimes.contract import Runner, SideStream, arm_errors, finish, import_optional
from nas.measure.runtimes.onnx_graph import INPUT, exported, in_memory_layout, is_channels_last


def tensorrt(model: nn.Module, images: Tensor) -> Runner:
    """`model` as an ONNX graph in a TensorRT engine built for exactly this shape, on torch's memory.

    Its precision is the graph's own, that is the arm's; fp32 may use TF32, the builder's default. ArmError where it is
    not installed, the device is no CUDA device or the network can't be built.
    """
    if images.device.type != "cuda":
        raise ArmError(f"arm: tensorrt runs on CUDA devices, not on {images.device.type}; choose another runtime")
    library = import_optional("tensorrt", "tensorrt")
    start = time.perf_counter()
    with torch.cuda.device(images.device):
        run = engine(library, model, images, SideStream(images.device))
        run(images)
        finish(images.device)
    return Runner(run, time.perf_counter() - start)


def engine(library: Any, model: nn.Module, images: Tensor, beside: SideStream) -> Engine:
    """The network built and ready, on a stream of its own."""
    logger = library.Logger(library.Logger.ERROR)
    with exported("tensorrt", model, images) as path, arm_errors("tensorrt", RuntimeError):
        plan = _plan(library, logger, path)
        built = _made(library.Runtime(logger).deserialize_cuda_engine(plan), "load the engine that it built")
        return Engine(library, built, images, beside)


class Engine:
    """An engine with its outputs bound once, its input where it lies at each call. Always gives the same tensors."""

    def __init__(self, library: Any, engine: Any, example: Tensor, beside: SideStream) -> None:
        self.beside, self.channels_last = beside, is_channels_last(example)
        self.engine = engine  # the context needs it alive
        self.context = engine.create_execution_context()
        if self.context is None:  # its way to say that memory ran out
            raise torch.OutOfMemoryError("tensorrt could not set up a context, which takes device memory")
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        made = [name for name in names if engine.get_tensor_mode(name) == library.TensorIOMode.OUTPUT]
        types = _types(library)
        self.outputs = tuple(
            torch.empty(
                tuple(engine.get_tensor_shape(name)), dtype=types[engine.get_tensor_dtype(name)], device=example.device
            )
            for name in made
        )
        for name, tensor in zip(made, self.outputs, strict=True):
            self._bind(name, tensor)

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        dense = in_memory_layout(images, self.channels_last)
        self._bind(INPUT, dense)
        with self.beside.turn():
            _made(self.context.execute_async_v3(self.beside.handle), "run the network")
        return self.outputs

    def _bind(self, name: str, tensor: Tensor) -> None:
        _made(self.context.set_tensor_address(name, tensor.data_ptr()), f"take the memory of {name}")


def _plan(library: Any, logger: Any, path: Path) -> Any:
    """The serialized engine of an ONNX file.

    Strongly typed: precisions are those of the file. Version 10 could choose them itself (BuilderFlag.FP16), 11 can't.
    """
    builder = library.Builder(logger)
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = library.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        reasons = [str(parser.get_error(i).desc()) for i in range(parser.num_errors)] or ["its log says why"]
        raise ArmError(f"arm: tensorrt can't read this network: {reasons[0].splitlines()[0]}")
    return _made(builder.build_serialized_network(network, builder.create_builder_config()), "build this network")


def _made(thing: Any, what: str) -> Any:
    """`thing`, unless it is None or False, TensorRT's way to say that it could not do `what`."""
    if thing is None or thing is False:
        raise ArmError(f"arm: tensorrt could not {what}; its log says why")
    return thing


def _types(library: Any) -> dict[Any, torch.dtype]:
    kinds = library.DataType
    return {kinds.FLOAT: torch.float32, kinds.HALF: torch.float16, kinds.BF16: torch.bfloat16}
