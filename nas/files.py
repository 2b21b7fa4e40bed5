"""Write files atomically, lock them, and tell whether a folder can be written and has locks.

An atomic write goes to a temporary file in the same folder, which is then renamed. Every call has its own temporary
name, which ends in ``.tmp``: a worker that outlives its killed driver never writes to the file of its successor. The
owner of a folder deletes temporary files of killed processes.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # as of Lustre that is mounted without flock


@contextmanager
def atomic_path(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary path, and rename its file to `path` after the body; if the body raises, delete the file.

    If another process has finished `path` and deleted the temporary file meanwhile, its version of `path` stays.

    Args:
        path: The finished file, in a folder that exists.
        sync: Whether the content reaches the disk before the rename, so that a power cut cannot lose both versions.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield unfinished
        try:
            if sync:
                _sync(unfinished)
            unfinished.replace(path)
        except FileNotFoundError:
            if not path.exists():
                raise
    finally:
        unfinished.unlink(missing_ok=True)


def atomic_write(path: Path, content: str | bytes, *, sync: bool = False) -> None:
    """Write text (as UTF-8) or bytes to a file by way of `atomic_path`.

    Args:
        path: The file, in a folder that exists.
        content: Text or bytes.
        sync: As of `atomic_path`.

    Raises:
        OSError: The file cannot be written.
    """
    with atomic_path(path, sync=sync) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)


def parse_json(text: str | bytes) -> Any:
    """Return the content of a JSON text; ValueError where it is none, or is nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("brackets in brackets, too deep to be read") from None


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def existing_folder(path: Path) -> Path:
    """Return the nearest folder of a path that exists."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def check_writable(path: Path) -> None:
    """Raise OSError where a folder cannot be written, or cannot be made, or its files cannot be locked."""
    folder = existing_folder(path)
    with tempfile.TemporaryFile(dir=folder) as file:
        lock_file(file, fcntl.LOCK_EX, folder)


def lock_file(file: IO[Any], operation: int, folder: Path) -> None:
    """Lock an open file with `fcntl.flock`.

    Args:
        file: The file.
        operation: `fcntl.LOCK_SH` or `fcntl.LOCK_EX`, perhaps with `fcntl.LOCK_NB`.
        folder: Its folder, for the message.

    Raises:
        BlockingIOError: Another process has the lock, with `fcntl.LOCK_NB`.
        OSError: The file system has no locks; the message names the folder and the remedy.
    """
    try:
        fcntl.flock(file, operation)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        remedy = "mount it with -o flock, or choose another folder"
        raise OSError(error.errno, f"the file system of {str(folder)!r} has no file locks; {remedy}") from None
