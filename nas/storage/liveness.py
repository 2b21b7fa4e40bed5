"""The liveness of drivers and commands: each holds a lock that ends with its process, so that no clocks are compared.

On SQLite the lock is that of a file next to the study, on PostgreSQL an advisory lock of a connection. A restart of the
database loses all advisory locks, and living drivers acquire theirs again within seconds. A missing lock therefore
means a dead driver only after `GRACE_S`, or at once if its process was on this machine and has ended.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from nas.files import lock_file
from nas.storage.errors import StoreError

GRACE_S = 15.0  # a driver without its lock counts as dead after this time
_CHECK_S = 2.0  # between two checks by a driver that it still holds its lock
DRIVERS = "drivers"  # folder in the run folder
_ACQUIRE = text("SELECT pg_advisory_lock_shared(:key)")  # shared: a process may open a study twice
_TRY = text("SELECT pg_try_advisory_xact_lock(:key)")


class CommandUnderWay(StoreError):
    """Another command does the same work."""


class DriverLiveness(Protocol):
    """The lock of this driver and the state of the others'."""

    def is_dead(self, driver: str) -> bool:
        """Return whether another driver is dead."""

    def release(self) -> None:
        """Release the lock of this driver, so that others can take over its running trials."""


def this_driver() -> str:
    """Return the name of this process as a driver, HOST:PID:RANDOM, the same for every study and every opening."""
    return _driver_name(os.getpid())


@cache
def _driver_name(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}:{secrets.token_hex(4)}"


class FileLocks:
    """The liveness of drivers of a SQLite study: RUN/drivers holds a locked file for each living driver.

    Args:
        run_dir: The study's run folder.

    Raises:
        StoreError: A driver on another machine works on the study.
    """

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / DRIVERS
        self._folder.mkdir(exist_ok=True)
        self._lock = FileLock(self._folder / this_driver(), is_singleton=True, thread_local=False)
        self._lock.acquire()
        others = [path.name for path in self._folder.iterdir() if path.name != this_driver()]
        for driver in [driver for driver in others if not self.is_dead(driver)]:
            if driver.partition(":")[0] != socket.gethostname():
                self.release()
                raise StoreError(
                    f"a search on {driver.partition(':')[0]} works on this study; several machines can share a study"
                    " only in PostgreSQL: start it with --storage postgresql://... If that machine is gone for good,"
                    f" delete {self._folder / driver}"
                )

    def is_dead(self, driver: str) -> bool:
        """Return whether another driver has no lock.

        The file of a dead driver stays: it may be that of one that is about to lock it.
        """
        return not is_locked(self._folder / driver)

    def release(self) -> None:
        """Release the lock and delete its file."""
        self._lock.release()
        if not self._lock.is_locked:
            (self._folder / this_driver()).unlink(missing_ok=True)


class ServerLocks:
    """The liveness of drivers of a PostgreSQL study.

    A thread holds the driver's advisory lock on its own connection, and acquires it again after a lost connection.

    Args:
        engine: The study's database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._missing: dict[str, float] = {}  # driver -> when its lock was first seen missing
        self._released = threading.Event()
        self._connection: Connection | None = None
        self._acquire()
        self._thread = threading.Thread(target=self._hold, daemon=True, name="driver-liveness")
        self._thread.start()

    def is_dead(self, driver: str) -> bool:
        """Return whether another driver has had no lock for `GRACE_S`, or has ended on this machine."""
        with self._engine.begin() as connection:
            free = connection.execute(_TRY, {"key": _key(driver)}).scalar()
        if not free:
            self._missing.pop(driver, None)
            return False
        since = self._missing.setdefault(driver, time.monotonic())
        return _ended_here(driver) or time.monotonic() - since >= GRACE_S

    def release(self) -> None:
        """Release the lock and close its connection."""
        self._released.set()
        self._thread.join()
        self._drop()

    def _hold(self) -> None:
        while not self._released.wait(_CHECK_S):
            try:
                self._acquire()
            except SQLAlchemyError:
                self._drop()

    def _acquire(self) -> None:
        """Acquire the lock, or check the connection that holds it."""
        if self._connection is not None:
            self._connection.execute(text("SELECT 1"))
            return
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        connection.detach()  # it must not return to the pool with the lock
        connection.execute(_ACQUIRE, {"key": _key(this_driver())})
        self._connection = connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError):
                connection.close()


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of a file, which need not exist; nothing is written."""
    try:
        with path.open("rb") as file:
            lock_file(file, fcntl.LOCK_SH | fcntl.LOCK_NB, path.parent)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


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


def _ended_here(driver: str) -> bool:
    """Return whether the driver was a process on this machine that has ended."""
    host, pid, _ = driver.rsplit(":", 2)
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _key(driver: str) -> int:
    """Return the key of a driver's advisory lock, a signed 64-bit integer."""
    return int.from_bytes(hashlib.sha256(driver.encode()).digest()[:8], "big", signed=True)
