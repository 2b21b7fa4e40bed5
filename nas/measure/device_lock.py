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
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nas.command_log import announce
from nas.machine import lock_dir
from nas.measure.environment import device_key
from nas.numbers import clock
from nas.redaction import public_text

DEVICE_FILE, _TURNSTILE_FILE = "device.lock", "turnstile.lock"
NOTICE_AFTER_S = 2.0  # shorter waits are not worth a line
MAX_COMMAND = 70  # characters of another process's command in the notice
_LOG = logging.getLogger(__name__)


@contextmanager
def training(lock_dir: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the device together with other trainers, but not with a measurement.

    Args:
        lock_dir: Folder of the device's locks.
        wait: Whether to wait for the device.

    Raises:
        BlockingIOError: Without `wait`, another process has the device or the turnstile.
    """
    with _held(lock_dir, fcntl.LOCK_SH if wait else fcntl.LOCK_SH | fcntl.LOCK_NB):
        yield


@contextmanager
def measuring(lock_dir: Path) -> Iterator[None]:
    """Hold the device alone."""
    with _held(lock_dir, fcntl.LOCK_EX):
        yield


def awaited(lock_dir: Path) -> bool:
    """Return whether another process waits at the turnstile of a device, or has just passed it."""
    with suppress(FileNotFoundError), (lock_dir / _TURNSTILE_FILE).open("r+") as turnstile:
        try:
            fcntl.flock(turnstile, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(turnstile, fcntl.LOCK_UN)
    return False


@contextmanager
def exclusive_device(device: str) -> Iterator[None]:
    """Hold a device of this machine alone; say on stderr which process has it where that is so, and when it is free."""
    with _announced(device, fcntl.LOCK_EX):
        yield


@contextmanager
def shared_device(device: str) -> Iterator[None]:
    """Hold a device of this machine as trainers do, for other work that would disturb a measurement on it."""
    with _announced(device, fcntl.LOCK_SH):
        yield


@contextmanager
def _announced(device: str, mode: int) -> Iterator[None]:
    folder, began = lock_dir() / device_key(device), time.monotonic()
    notice = threading.Timer(NOTICE_AFTER_S, _print_notice, [device, folder])
    notice.start()
    try:
        with _held(folder, mode):
            notice.cancel()
            if (waited_s := time.monotonic() - began) > NOTICE_AFTER_S:
                announce(f"waited {clock(waited_s)} for {device}", _LOG)
            yield
    finally:
        notice.cancel()


def holders(folder: Path) -> dict[int, str]:
    """Return the commands of the processes that hold a device, by their ids.

    It is empty where the kernel does not say: it is no Linux, or they are in another container.
    """
    commands = {}
    with suppress(OSError, ValueError, IndexError):
        inode = str((folder / DEVICE_FILE).stat().st_ino)
        for line in Path("/proc/locks").read_text().splitlines():
            _, kind, _, _, pid, file, *_ = line.split()  # "1: FLOCK ADVISORY WRITE 4711 08:01:131075 0 EOF"
            if kind == "FLOCK" and file.rpartition(":")[2] == inode and int(pid) > 0:
                words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
                commands[int(pid)] = public_text(" ".join(filter(None, words)))
    return commands


@contextmanager
def _held(lock_dir: Path, mode: int) -> Iterator[None]:
    lock_dir.mkdir(parents=True, exist_ok=True)
    turn = fcntl.LOCK_EX | (mode & fcntl.LOCK_NB)
    with _flock(lock_dir / _TURNSTILE_FILE, turn) as turnstile, _flock(lock_dir / DEVICE_FILE, mode):
        fcntl.flock(turnstile, fcntl.LOCK_UN)
        yield


@contextmanager
def _flock(path: Path, mode: int) -> Iterator[int]:
    """Hold an flock on a file that is opened for this hold alone, so that holds within a process exclude each other."""
    with path.open("a+") as file:  # on NFS, a shared lock needs a file that can be read
        fcntl.flock(file, mode)
        try:
            yield file.fileno()
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # not left to close: a forked child may hold a copy of the descriptor


def _print_notice(device: str, folder: Path) -> None:
    known = [f"process {pid} ({_shortened(command)})" for pid, command in holders(folder).items()]
    names = " and ".join(known) or "another process"
    verb = "train or measure" if len(known) > 1 else "trains or measures"
    announce(
        f"waiting for {device}: {names} {verb} on it; Ctrl-C ends the wait and loses nothing",
        _LOG,
    )


def _shortened(command: str) -> str:
    names = " ".join(Path(word).name if word.startswith("/") else word for word in command.split(" "))
    return names if len(names) <= MAX_COMMAND else f"{names[: MAX_COMMAND - 3]}..."
