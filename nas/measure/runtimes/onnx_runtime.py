"""Run models by ONNX Runtime, on a CPU or a CUDA device."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.measure.runtime_spec import ArmError
from nas.measure.runtimes.contract import Runner, SideStream, arm_errors, import_optional, ordered, synchronize
from nas.measure.runtimes.onnx_graph import INPUT, exported, in_memory_layout, is_channels_last

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(bfloat16)": torch.bfloat16}
ELEMENTS = {torch.float32: 1, torch.float16: 10, torch.bfloat16: 16}  # onnx.TensorProto's numbers


def onnxruntime(model: nn.Module, images: Tensor) -> Runner:
    """Load `model` as an ONNX graph into a session with torch's number of threads that works on torch's own memory.

    A CPU runs fp32 only. On CUDA every operator must run there; fp32 may use TF32, the runtime's default.

    Raises:
        ArmError: ONNX Runtime is not installed, lacks the device or cannot run the network.
    """
    start = time.perf_counter()
    library = import_optional("onnxruntime", "onnx")
    _check(library, images)
    stream = SideStream(images.device) if images.device.type == "cuda" else None
    with exported("onnxruntime", model, images) as path, arm_errors("onnxruntime", Exception):
        run = Session(library, open_session(library, path, images.device, stream), images, stream)
        run(images)
        synchronize(images.device)
    return Runner(run, time.perf_counter() - start)


class Session:
    """A session whose outputs are bound once, its input at each call; it always returns the same tensors."""

    def __init__(self, library: Any, session: Any, example: Tensor, stream: SideStream | None) -> None:
        self.session, self.stream = session, stream
        self.channels_last = is_channels_last(example)
        self.binding = session.io_binding()
        self.options = library.RunOptions()
        # Streams order the work, so the host need not wait.
        self.options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self.outputs = tuple(
            torch.empty(output.shape, dtype=TYPES[output.type], device=example.device)
            for output in session.get_outputs()
        )
        for output, tensor in zip(session.get_outputs(), self.outputs, strict=True):
            self.binding.bind_output(output.name, *_binding(tensor))

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the session on images (B, 3, H, W)."""
        dense = in_memory_layout(images, self.channels_last)
        self.binding.bind_input(INPUT, *_binding(dense))
        with ordered(self.stream), arm_errors("onnxruntime", Exception):
            self.session.run_with_iobinding(self.binding, self.options)
        return self.outputs


def _check(library: Any, images: Tensor) -> None:
    device, provider = images.device.type, PROVIDERS.get(images.device.type)
    if provider not in library.get_available_providers():
        available = ", ".join(library.get_available_providers())
        reason = f"can't run on {device} (it has {available})"
        raise ArmError(f"runtime: this onnxruntime {reason}; for CUDA install onnxruntime-gpu")


def open_session(library: Any, path: Path, device: torch.device, stream: SideStream | None = None) -> Any:
    """Load an ONNX file on a device, with torch's number of threads; ArmError where it cannot run there."""
    options = library.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    options.graph_optimization_level = library.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Threads spin within a call, the default, but not after it, when the other network needs the cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    settings: dict[str, str] = {}
    if stream is not None:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        settings = {"device_id": str(stream.stream.device_index), "user_compute_stream": str(stream.handle)}
    provider = PROVIDERS[device.type]
    session = library.InferenceSession(str(path), options, providers=[(provider, settings)])
    if session.get_providers()[0] != provider:
        raise ArmError(f"runtime: onnxruntime could not load its {provider} and took {session.get_providers()[0]}")
    return session


def _binding(tensor: Tensor) -> tuple[str, int, int, tuple[int, ...], int]:
    """Return the arguments that bind a contiguous tensor: device, its index, element type, shape, address."""
    return tensor.device.type, tensor.device.index or 0, ELEMENTS[tensor.dtype], tuple(tensor.shape), tensor.data_ptr()
