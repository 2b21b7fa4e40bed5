"""Tell what an error of a trial means: its `Failure`, and its reason in one line."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from nas.cache import CacheError
from nas.cli import one_line
from nas.distill.trainer import TrainingError
from nas.measure import MeasurementError
from nas.measure.memory import out_of_memory
from nas.study.failures import Failure, RankError, is_disk_error

_FAILURE_OF_VERDICT = {
    "wrong output": Failure.WRONG_OUTPUT,
    "hang": Failure.HANG,
    "crash": Failure.LOST_WORKER,
}
_FULL_DISK_MESSAGES = ("No space left on device", "Disk quota exceeded")  # also in errors that have no errno
_LOST_CONNECTION_MESSAGES = (  # of gloo, which has no type for it, and of NCCL; in lower case
    "gloo/transport",
    "connection closed",
    "connection reset",
    "broken pipe",
    "timed out waiting",
    "collective operation timeout",
    "ncclremoteerror",
    "communicator was aborted",
)
# Bytes outside this process's allocator that may explain an out-of-memory error: more than this share of a card, and
# more than the contexts of CUDA in this process and in the driver, 0.3 to 0.5 GiB each, and a screen take.
_MIN_FOREIGN_SHARE, _MIN_FOREIGN_BYTES = 0.05, 1.5 * 2**30


class MemoryTakenError(RuntimeError):
    """A batch did not fit beside other commands on a GPU."""


def rank_error(error: Exception, device: str) -> RankError:
    """Return the error of this rank, which trains on `device`, as it is sent to the process of the trial."""
    return RankError(*diagnose(error, device), _is_lost_connection(error), time.time())


def diagnose(error: Exception, device: str) -> tuple[Failure, str]:
    """Return the failure that an error of a trial on `device` means, and its reason in one line."""
    if isinstance(error, RankError):
        return error.failure, str(error)
    if isinstance(error, MemoryTakenError):
        return Failure.MEMORY_SHARED, f"measuring: {error}"
    if isinstance(error, TrainingError):
        return Failure.NOT_FINITE, str(error)
    if isinstance(error, CacheError):
        return Failure.DAMAGED_CACHE, str(error)
    if isinstance(error, MeasurementError):
        failure = _FAILURE_OF_VERDICT.get(error.verdict, Failure.ERROR)
        if error.verdict == "out of memory":
            failure = _lack_of_memory(device)
        return failure, f"measuring: {error.verdict}: {error}"
    if out_of_memory(error):
        failure = _lack_of_memory(device)
        return failure, f"{failure}: {_text(error)}"
    if any(words in str(cause) for cause in _causes(error) for words in _FULL_DISK_MESSAGES):
        return Failure.FULL_DISK, f"the disk is full: {_text(error)}"
    if any(is_disk_error(cause) for cause in _causes(error)):
        return Failure.DISK_ERROR, f"the disk has an error: {_text(error)}"
    places = [f" ({Path(frame.filename).name}:{frame.lineno})" for frame in traceback.extract_tb(error.__traceback__)]
    return Failure.ERROR, f"{type(error).__name__}: {_text(error)}{''.join(places[-1:])}"


def _is_lost_connection(error: Exception) -> bool:
    """Return whether an error of a rank says no more than that another one is gone."""
    if isinstance(error, dist.DistNetworkError | dist.DistStoreError):
        return True
    lost = any(words in str(error).lower() for words in _LOST_CONNECTION_MESSAGES)
    return isinstance(error, RuntimeError) and lost and not out_of_memory(error)


def _lack_of_memory(device: str) -> Failure:
    return Failure.MEMORY_SHARED if shared(device) else Failure.OUT_OF_MEMORY


def shared(device: str) -> bool:
    """Return whether other commands use memory of the device too; the host's memory is always shared."""
    if not device.startswith("cuda"):
        return True
    try:
        free, whole = torch.cuda.mem_get_info()
    except RuntimeError:  # not even a context fits
        return True
    return whole - free - torch.cuda.memory_reserved() > max(_MIN_FOREIGN_SHARE * whole, _MIN_FOREIGN_BYTES)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _text(error: BaseException) -> str:
    return one_line(error)[:300]
