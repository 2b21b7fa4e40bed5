"""Locks of a folder, which end with the process that holds them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from nas.storage.errors import StoreError


class CommandUnderWay(StoreError):
    """Another command does the same work."""


@contextmanager
def only_command(lock: Path, refusal: str) -> Iterator[None]:
    """Hold a lock of a folder in the body, so that no other command does the same work.

    Args:
        lock: File of the lock, which stays: another command may be about to lock it.
        refusal: Message of the error where another command holds the lock.

    Raises:
        CommandUnderWay: Another command holds the lock.
        StoreError: It cannot be written.
    """
    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise CommandUnderWay(refusal) from None
    except OSError as error:
        raise StoreError(f"cannot write {str(lock.parent)!r}: {error.strerror or error}") from None
    try:
        yield
    finally:
        held.release()
