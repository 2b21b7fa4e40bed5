"""Which drivers are alive: each holds a lock that ends with its process, so there is no clock to compare.

On SQLite a locked file beside the study, on PostgreSQL an advisory lock of the session. A database that was restarted
has lost all locks and a living driver takes its own again within seconds: so a missing lock means a dead driver only
after a while, except where its process was on this machine and is gone.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from nas.storage.errors import StoreError

GRACE_S = 15.0  # a driver without its lock is believed dead after this time
_LOOK_S = 2.0  # how often a driver looks whether its lock is still there
_FOLDER = "drivers"
_HOLD = text("SELECT pg_advisory_lock_shared(:key)")  # shared: a process may open a study twice
_TRY = text("SELECT pg_try_advisory_xact_lock(:key)")


class DriverLiveness(Protocol):
    """The lock of this driver, and a look at others'."""

    def is_dead(self, driver: str) -> bool:
        """Whether another driver is dead."""

    def release(self) -> None:
        """Gives the lock back: what this driver left running may be taken over."""


def this_driver() -> str:
    """This process as a driver: HOST:PID:RANDOM. A process that opens a study again is the same driver."""
    return _named(os.getpid())


@cache
def _named(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}:{secrets.token_hex(4)}"


class FileLocks:
    """DriverLiveness beside a SQLite study. `RUN/drivers` holds a locked file for each living driver."""

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / _FOLDER
        self._folder.mkdir(exist_ok=True)
        self._lock = FileLock(self._folder / this_driver(), is_singleton=True, thread_local=False)
        self._lock.acquire()
        others = [path.name for path in self._folder.iterdir() if path.name != this_driver()]
        for driver in [driver for driver in others if not self.is_dead(driver)]:
            if driver.partition(":")[0] != socket.gethostname():
                self.release()
                raise StoreError(
                    f"{driver.partition(':')[0]} works on this study; for drivers on several machines it has to lie"
                    " in PostgreSQL (--database, when it is begun)"
                )

    def is_dead(self, driver: str) -> bool:
        path = self._folder / driver
        if not path.exists():
            return True
        try:
            with FileLock(path, timeout=0):
                path.unlink(missing_ok=True)
        except Timeout:
            return False
        return True

    def release(self) -> None:
        self._lock.release()
        if not self._lock.is_locked:
            (self._folder / this_driver()).unlink(missing_ok=True)


class ServerLocks:
    """Liveness in PostgreSQL: an advisory lock on a connection of its own, taken again when the connection was lost."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._unseen: dict[str, float] = {}  # driver -> since when its lock is missing
        self._over = threading.Event()
        self._connection: Connection | None = None
        self._hold()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="presence")
        self._thread.start()

    def is_dead(self, driver: str) -> bool:
        with self._engine.begin() as connection:
            free = bool(connection.execute(_TRY, {"key": _key(driver)}).scalar())
        if not free:
            self._unseen.pop(driver, None)
            return False
        since = self._unseen.setdefault(driver, time.monotonic())
        return _ended_here(driver) or time.monotonic() - since >= GRACE_S

    def release(self) -> None:
        self._over.set()
        self._thread.join()
        self._drop()

    def _keep(self) -> None:
        while not self._over.wait(_LOOK_S):
            try:
                self._hold()
            except SQLAlchemyError:
                self._drop()

    def _hold(self) -> None:
        """Takes the lock, or looks whether the connection that has it still stands."""
        if self._connection is not None:
            self._connection.execute(text("SELECT 1"))
            return
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        connection.detach()  # never back into the pool with the lock
        connection.execute(_HOLD, {"key": _key(this_driver())})
        self._connection = connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError):
                connection.close()


def _ended_here(driver: str) -> bool:
    """Whether the driver was a process of this machine that is gone."""
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
    """The number of a driver's lock: 64 bits, signed."""
    return int.from_bytes(hashlib.sha256(driver.encode()).digest()[:8], "big", signed=True)
