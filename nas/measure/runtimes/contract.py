"""What every runtime gives, and how it says that it can't."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas.measure.arms import ArmError

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "Failed to allocate memory", "bad_alloc")
LONGEST = 300  # characters of a runtime's own message


@dataclass(frozen=True)
class Runner:
    """A network on a runtime, for inputs like the example that it was made with.

    `run` takes images (B, 3, H, W) on the device and gives what `encode` gives, as tensors in any nesting. The next
    call may overwrite them: copy what is to be kept.
    """

    run: Callable[[Tensor], Any]
    compile_s: float = 0.0  # seconds that compiling or exporting took, first call included
    notes: tuple[str, ...] = ()  # what a reader of its times should know


def encoder(model: nn.Module) -> Callable[[Tensor], Any]:
    """What is timed of a network: its `encode`, or the call of one that has none."""
    encode: Callable[[Tensor], Any] = getattr(model, "encode", model)
    return encode


def import_optional(name: str, extra: str) -> Any:
    """The module of an optional dependency. ArmError that names the extra which brings it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ArmError(f"arm: {name} is not installed; pip install 'backbone-nas[{extra}]'") from None


@contextmanager
def arm_errors(runtime: str, *kinds: type[Exception]) -> Iterator[None]:
    """Errors of `kinds` become an ArmError of one line; those that say that memory ran out an OutOfMemoryError.

    Batch sizes are backed off for the latter, whatever library ran out.
    """
    try:
        yield
    except (ArmError, torch.OutOfMemoryError):
        raise
    except kinds as error:
        reason = _reason(error)
        if any(words in str(error) for words in OUT_OF_MEMORY):
            raise torch.OutOfMemoryError(f"{runtime}: {reason}") from error
        raise ArmError(f"arm: {runtime} can't run this network here: {reason}") from error


def _reason(error: BaseException) -> str:
    """First line of the innermost cause: compilers and exporters wrap what happened in advice."""
    inner = getattr(error, "inner_exception", None) or error.__cause__
    if inner is not None:
        return _reason(inner)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:LONGEST]


class SideStream:
    """A CUDA stream for a library that wants one of its own, in step with torch's current one.

    ONNX Runtime takes stream 0, torch's default, for none at all, and TensorRT synchronises the host around work on it.
    Inside `turn` the stream waits for what is queued, and what is queued after it waits for the stream: events around a
    turn time it, and nobody's memory is reused too early.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @property
    def handle(self) -> int:
        """The `cudaStream_t`."""
        return int(self.stream.cuda_stream)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Around calls that queue work on the stream."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        yield
        current.wait_stream(self.stream)


def in_turn(beside: SideStream | None) -> AbstractContextManager[None]:
    """A turn of the stream; nothing where there is none, on a CPU."""
    return nullcontext() if beside is None else beside.turn()


def finish(device: torch.device) -> None:
    """Wait for what is queued on a device, so that the time until now includes it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
