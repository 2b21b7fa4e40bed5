"""Keep training off a device while something is measured on it: a readers-writer lock across processes, in two files.

    with training(folder): ...   # shared: any number of trainers; release and take it again every few steps
    with measuring(folder): ...  # exclusive: waits until no trainer holds it

Both queue at a turnstile first. A measurement keeps the turnstile until it holds the device, so that trainers whose
holds overlap cannot starve it. The kernel drops a dead process's locks. Holds do not nest: a second hold in the same
process waits for the first, forever.
"""

from __future__ import annotations

import fcntl
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas.cli import lock_dir
from nas.command_log import announce
from nas.measure.environment import device_key

NOTICE_AFTER_S = 0.5
_LOG = logging.getLogger(__name__)


@contextmanager
def training(lock_dir: Path) -> Iterator[None]:
    """Hold the device together with other trainers, but not with a measurement."""
    with _held(lock_dir, fcntl.LOCK_SH):
        yield


@contextmanager
def measuring(lock_dir: Path) -> Iterator[None]:
    """Hold the device alone."""
    with _held(lock_dir, fcntl.LOCK_EX):
        yield


@contextmanager
def exclusive_device(device: str) -> Iterator[None]:
    """Hold a device of this machine alone; say on stderr that another process has it where that is so."""
    notice = threading.Timer(NOTICE_AFTER_S, _print_notice, [device])
    notice.start()
    try:
        with measuring(lock_dir() / device_key(device)):
            notice.cancel()
            yield
    finally:
        notice.cancel()


@contextmanager
def _held(lock_dir: Path, mode: int) -> Iterator[None]:
    lock_dir.mkdir(parents=True, exist_ok=True)
    with _flock(lock_dir / "turnstile.lock", fcntl.LOCK_EX) as turnstile, _flock(lock_dir / "device.lock", mode):
        fcntl.flock(turnstile, fcntl.LOCK_UN)
        yield


@contextmanager
def _flock(path: Path, mode: int) -> Iterator[int]:
    """Hold an flock on a file that is opened for this hold alone, so that holds within a process exclude each other."""
    with path.open("a") as file:
        fcntl.flock(file, mode)
        try:
            yield file.fileno()
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # not left to close: a forked child may hold a copy of the descriptor


def _print_notice(device: str) -> None:
    announce(f"waiting for {device}: another process trains or measures on it", _LOG)
