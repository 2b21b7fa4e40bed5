"""Folders for this user alone: scratch folders are removed at the end, and swept after the death of their process.

A killed process removes nothing and ends none of its children. So every scratch folder has a lock that ends with its
process, and a process that makes one first sweeps those of dead processes: it kills what they have left running, and
deletes their folders. A child belongs to the folder that its environment names in `VARIABLE`. `guarded` does not wait
for the next process: this file is also the program of a guard, which sweeps one folder as soon as its process is dead.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

VARIABLE = "BACKBONE_NAS_SCRATCH"
_LOCK = ".lock"
_PRIVATE = 0o700
_GUARD_TRIES, _GUARD_PAUSE_S = 100, 0.1
_LOG = logging.getLogger(__name__)


@contextmanager
def scratch_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Yield a new folder of mode 0700, after a sweep of those with the same prefix.

    Args:
        prefix: Begins the folder's name.
        parent: Takes the folder; None for the folder of temporary files. Processes of several machines may share it if
            the prefix names the machine.

    Raises:
        OSError: The folder cannot be made.
    """
    parent = parent or Path(tempfile.gettempdir())
    sweep(prefix, parent)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    unlocked = folder / f"{_LOCK}.new"
    try:
        with unlocked.open("w") as lock, environment({VARIABLE: str(folder)}):
            fcntl.flock(lock, fcntl.LOCK_EX)
            unlocked.rename(folder / _LOCK)  # a sweep sees only locked files
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Sweep a scratch folder of this process at once if the process is killed in the body."""
    words = [sys.executable, "-I", __file__, str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True) as guard:  # Ctrl-C does not reach it
        try:
            yield
        finally:
            guard.kill()


def _guard(folder: Path) -> None:
    """Wait for the end of the process that holds the other end of stdin, and sweep its folder."""
    sys.stdin.read()
    for _ in range(_GUARD_TRIES):
        try:
            _sweep_if_dead(folder)
        except BlockingIOError:  # the kernel has not closed the lock yet
            time.sleep(_GUARD_PAUSE_S)
        except OSError:
            return


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process, which its children inherit, and restore them after the body."""
    earlier = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in earlier.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def sweep(prefix: str, parent: Path) -> None:
    """Kill the children of this user's dead processes, and delete their scratch folders.

    Args:
        prefix: Begins the folders' names.
        parent: Has the folders.
    """
    for folder in parent.glob(f"{prefix}*"):
        with suppress(OSError):
            if _is_own(folder):
                _sweep_if_dead(folder)


def private_folder(path: Path) -> Path:
    """Return a folder of this user alone, which stays: it is made where it is missing, and its mode becomes 0700.

    Raises:
        PermissionError: There is something else at the path, as a link or another user's folder.
        OSError: The folder cannot be made.
    """
    with suppress(FileExistsError):
        path.mkdir(mode=_PRIVATE)
    if not _is_own(path):
        raise PermissionError(
            f"{str(path)!r} is not a folder that belongs to this user; remove it, or set TMPDIR to another folder"
        )
    if stat.S_IMODE(path.stat().st_mode) != _PRIVATE:
        path.chmod(_PRIVATE)
    return path


def _is_own(path: Path) -> bool:
    """Return whether a path is a folder of this user, and no link."""
    found = path.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _sweep_if_dead(folder: Path) -> None:
    """Delete a scratch folder and kill what belongs to it; OSError where its process lives, or has not begun."""
    with (folder / _LOCK).open("r+") as lock:  # on NFS, an exclusive lock needs a file that can be written
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        killed = kill_children(folder)
        shutil.rmtree(folder, ignore_errors=True)
        _LOG.info("swept %s of a process that was killed, and %d processes that it had left", folder, killed)


def kill_children(folder: Path) -> int:
    """Kill the processes that belong to a scratch folder, its guard too, and return how many were killed."""
    children = [pid for pid in _own_processes() if pid != os.getpid() and _belongs(pid, folder)]
    for pid in children:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(children)


def _own_processes() -> Iterator[int]:
    """Yield the ids of this user's processes; none where the system has no /proc."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if entry.stat().st_uid == os.geteuid():
                yield int(entry.name)


def _belongs(pid: int, folder: Path) -> bool:
    """Return whether a process was started for a scratch folder.

    Its environment says so. A process that gives itself a title, as Ray's agents do, may overwrite its environment with
    zeros, from the beginning: then a file of the folder that it has open says so.
    """
    process = Path("/proc") / str(pid)
    with suppress(OSError):
        variables = (process / "environ").read_bytes()
        if f"{VARIABLE}={folder}".encode() in variables.split(b"\0"):
            return True
        return variables.startswith(b"\0") and any(
            _is_open_in(folder.resolve(), file) for file in (process / "fd").iterdir()
        )
    return False


def _is_open_in(folder: Path, file: Path) -> bool:
    """Return whether an entry of /proc/PID/fd is a file in a folder."""
    with suppress(OSError):
        return file.readlink().is_relative_to(folder)
    return False


if __name__ == "__main__":
    _guard(Path(sys.argv[1]))
