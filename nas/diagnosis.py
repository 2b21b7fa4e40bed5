"""What an error of a trial means: its `Failure` and one line for the record."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from nas.distill.trainer import TrainingError
from nas.failures import Failure
from nas.measure import MeasurementError
from nas.measure.sweep import out_of_memory

_OF_VERDICTS = {
    "out of memory": Failure.OUT_OF_MEMORY,
    "wrong output": Failure.WRONG_OUTPUT,
    "hang": Failure.HANG,
    "crash": Failure.LOST_WORKER,
}
# As the system says it, and torch.save, which has no errno.
_FULL_DISK = ("No space left on device", "file write failed", "PytorchStreamWriter failed writing")
_OTHERS_SHARE = 0.05  # of a card's memory in other hands: enough to make the difference


def diagnose(error: Exception, device: str) -> tuple[Failure, str]:
    """Failure and reason of what a trial on `device` raised."""
    if isinstance(error, TrainingError):
        return Failure.NOT_FINITE, str(error)
    if isinstance(error, MeasurementError):
        return _OF_VERDICTS.get(error.verdict, Failure.ERROR), f"measuring: {error.verdict}: {error}"
    if out_of_memory(error):
        failure = Failure.MEMORY_SHARED if shared(device) else Failure.OUT_OF_MEMORY
        return failure, f"{failure}: {_text(error)}"
    if any(words in str(cause) for cause in _causes(error) for words in _FULL_DISK):
        return Failure.FULL_DISK, f"the disk is full: {_text(error)}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return Failure.ERROR, f"{type(error).__name__}: {_text(error)} ({Path(frame.filename).name}:{frame.lineno})"


def shared(device: str) -> bool:
    """Whether others have memory of the device, too; the host's memory is always everybody's."""
    if not device.startswith("cuda"):
        return True
    free, whole = torch.cuda.mem_get_info()
    return whole - free - torch.cuda.memory_reserved() > _OTHERS_SHARE * whole


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _text(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
