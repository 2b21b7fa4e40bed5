"""The interface of all runtimes: the network that they return, their errors, and CUDA streams of their own."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas.extras import install_command
from nas.measure.memory import out_of_memory
from nas.measure.runtime_spec import ArmError

MAX_REASON_LENGTH = 300  # characters of a runtime's own message


@dataclass(frozen=True)
class Runner:
    """A network on a runtime, for inputs like its example inputs.

    Attributes:
        run: Maps images (B, 3, H, W) on the device to the outputs of `encode`, tensors in any nesting. The next call
            may overwrite them.
        compile_s: Seconds of compiling or exporting, first call included.
        notes: Remarks for people who read the network's times.
    """

    run: Callable[[Tensor], Any]
    compile_s: float = 0.0
    notes: tuple[str, ...] = ()


def encoder(model: nn.Module) -> Callable[[Tensor], Any]:
    """Return the function of a network that is timed: its `encode`, or its forward where it has none."""
    encode: Callable[[Tensor], Any] = getattr(model, "encode", model)
    return encode


def import_optional(name: str, extra: str) -> Any:
    """Import an optional dependency.

    Raises:
        ArmError: It is not installed; the message names the extra that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ArmError(f"runtime: {name} is not installed; {install_command(extra)}") from None


@contextmanager
def arm_errors(runtime: str, *kinds: type[Exception]) -> Iterator[None]:
    """Translate errors of `kinds` to an ArmError of one line, or to OutOfMemoryError if they say that memory ran out.

    Callers try smaller batches after an OutOfMemoryError, whichever library raised it.
    """
    try:
        yield
    except (ArmError, torch.OutOfMemoryError):
        raise
    except kinds as error:
        reason = _reason(error)
        if out_of_memory(error):
            raise torch.OutOfMemoryError(f"{runtime}: {reason}") from error
        raise ArmError(f"runtime: {runtime} can't run this network here: {reason}") from error


def _reason(error: BaseException) -> str:
    """Return the first line of the innermost cause: compilers and exporters wrap it in advice."""
    inner = getattr(error, "inner_exception", None) or error.__cause__
    if inner is not None:
        return _reason(inner)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:MAX_REASON_LENGTH]


class SideStream:
    """A CUDA stream for a library that needs one of its own, ordered with torch's current stream.

    ONNX Runtime treats stream 0, torch's default, as no stream, and TensorRT synchronizes the host around work on it.
    Inside `ordered`, the side stream waits for the work that is queued on torch's stream; later work on torch's stream
    waits for the side stream. So events around the block time it, and no memory is reused too early.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @property
    def handle(self) -> int:
        """The `cudaStream_t`."""
        return int(self.stream.cuda_stream)

    @contextmanager
    def ordered(self) -> Iterator[None]:
        """Order the work that the body queues on this stream with torch's current stream."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.device(self.device):  # CUDA takes no kernel for a stream of another device than the current one
            yield
        current.wait_stream(self.stream)


def ordered(stream: SideStream | None) -> AbstractContextManager[None]:
    """Return the context of `SideStream.ordered`; without a stream, on a CPU, one that does nothing."""
    return nullcontext() if stream is None else stream.ordered()


def synchronize(device: torch.device) -> None:
    """Wait for the work that is queued on a device, so that elapsed time includes it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
