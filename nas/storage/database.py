"""Optuna's storage with transactions that span many of its calls.

Optuna commits every call, and every parameter of a trial: a kill between two commits leaves half a trial, and two
commands can act on the same state. Inside `Database.transaction` all calls are one transaction. It begins with a lock:
on a server of the row of the study, on SQLite of the whole file.
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import RDBStorage
from sqlalchemy import (
    CursorResult,
    Engine,
    ExceptionContext,
    Executable,
    Row,
    column,
    event,
    insert,
    table,
    text,
    update,
)
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from nas.files import lock_file
from nas.storage.errors import RolledBack, StoreError
from nas.storage.location import StudyLocation
from search_space.checks import file_itself

_LOCK_STUDY = text("SELECT 1 FROM studies WHERE study_id = :id FOR UPDATE")
_PARAMS = text(
    "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) "
    "VALUES (:trial_id, :param_name, :param_value, :distribution_json)"
)
_ATTRIBUTES = table("trial_user_attributes", column("trial_id"), column("key"), column("value_json"))
# A driver's machine that disappears, and a process that is stopped within a transaction, must not keep their locks. A
# server's machine that disappears is an unavailable database, and not one that takes long to answer: by default, TCP
# waits for a lost machine for a quarter of an hour. All are seconds, apart from tcp_user_timeout in ms.
_SERVER_OPTIONS = (
    "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3 -c tcp_user_timeout=25000 "
    "-c idle_in_transaction_session_timeout=120s"
)
_CLIENT_OPTIONS = {
    "postgresql": {
        "connect_timeout": "10",
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "25000",
        "options": _SERVER_OPTIONS,
    },
    "mysql": {"connect_timeout": "10"},
    "mariadb": {"connect_timeout": "10"},
}


_READ_ONLY_TRANSACTION = "25006"  # PostgreSQL's code of this error


class Database(RDBStorage):
    """An RDBStorage with transactions over many calls, for one thread.

    As a context manager it closes all connections at its end; a later call would open a new one.

    Args:
        location: Where the study is stored.
        read_only: Whether nothing will be written, so that a file need not be writable.
    """

    def __init__(self, location: StudyLocation, *, read_only: bool = False) -> None:
        self.read_only = read_only
        try:
            self._connect(location, _connect_to_read if read_only else _connect)
        except BaseException:  # Optuna's constructor reads the database, and may have opened a connection
            if isinstance(engine := getattr(self, "engine", None), Engine):
                engine.dispose()
            raise
        self._call_sessions = self.scoped_session
        self.scoped_session = self._session  # type: ignore[assignment]

    def _connect(self, location: StudyLocation, connect: Callable[[Path], sqlite3.Connection]) -> None:
        self._open_session: _TransactionSession | None = None
        self._params: list[dict[str, Any]] = []
        self._write_lock: Path | None = None
        if (path := location.file) is not None:
            # Not opened by a URL, in which a `?` of the path would begin the options.
            self._write_lock = path.with_suffix(".lock")
            super().__init__("sqlite://", {"creator": lambda: connect(path), "poolclass": QueuePool})
            event.listen(self.engine, "handle_error", _keep_connection)
        else:
            assert location.url is not None
            defaults = _CLIENT_OPTIONS[location.url.get_backend_name()]
            url = location.url.update_query_dict({**defaults, **location.url.query})
            template = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
            super().__init__(template)
            event.listen(self.engine, "handle_error", _leave_standby)

    def close(self) -> None:
        """Close every connection to the database."""
        self._call_sessions.remove()
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def in_transaction(self) -> bool:
        """Return whether a transaction is open."""
        return self._open_session is not None

    @property
    def is_file(self) -> bool:
        """Return whether the database is a SQLite file."""
        return bool(self.engine.name == "sqlite")

    @contextmanager
    def transaction(self, study: int | None = None) -> Iterator[None]:
        """Open a transaction that locks a study; within another transaction it is a part of that one.

        Args:
            study: Optuna's id of the study; None while it is created.
        """
        if self._open_session is not None:
            yield
            return
        with self._serialize_writes(), _TransactionSession(bind=self.engine) as session:
            self._open_session = session
            try:
                if self.is_file:
                    session.execute(text("BEGIN IMMEDIATE"))
                elif study is not None:
                    session.execute(_LOCK_STUDY, {"id": study})
                yield
                self._write_params(session)
                session.commit_transaction()
            except BaseException:
                session.rollback()
                raise
            finally:
                self._open_session, self._params = None, []

    def rows(self, statement: Executable, values: dict[str, Any]) -> Sequence[Row[Any]]:
        """Return the rows of a query, within the transaction if one is open."""
        if self._open_session is not None:
            self._write_params(self._open_session)
            return self._open_session.execute(statement, values).all()
        with self.engine.connect() as connection:
            return connection.execute(statement, values).all()

    @contextmanager
    def _serialize_writes(self) -> Iterator[None]:
        """Let writers of a file wait for each other; SQLite would let them retry at growing intervals."""
        if self._write_lock is None:
            yield
            return
        with open(self._write_lock, "w", opener=file_itself) as file:
            lock_file(file, fcntl.LOCK_EX, self._write_lock.parent)  # ends with the process
            yield

    def set_trial_attribute(self, trial: int, key: str, value: Any) -> None:
        """Write a user attribute of a trial within a transaction; unlike Optuna, without reading the trial first.

        Args:
            trial: Optuna's id of the trial.
            key: Name of the attribute.
            value: JSON data.
        """
        assert self._open_session is not None
        names, value_json = _ATTRIBUTES.c, json.dumps(value)
        change = update(_ATTRIBUTES).where(names.trial_id == trial, names.key == key).values(value_json=value_json)
        if not cast(CursorResult[Any], self._open_session.execute(change)).rowcount:
            row = {"trial_id": trial, "key": key, "value_json": value_json}
            self._open_session.execute(insert(_ATTRIBUTES).values(row))

    def _session(self) -> Session:
        """Return the session of one of Optuna's calls."""
        if self._open_session is None:
            return self._call_sessions()
        if self._open_session.ended:
            raise RolledBack("rolled back") from self._open_session.failure  # Optuna would retry without the lock
        self._write_params(self._open_session)
        return self._open_session

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        """Collect a parameter within a transaction; the next call writes all parameters of a trial at once."""
        if self._open_session is None:
            super()._set_trial_param(trial_id, param_name, param_value_internal, distribution, previous_distribution)
            return
        row = {"trial_id": trial_id, "param_name": param_name, "param_value": param_value_internal}
        self._params.append({**row, "distribution_json": distribution_to_json(distribution)})

    def _write_params(self, session: Session) -> None:
        rows, self._params = self._params, []
        if rows:
            session.execute(_PARAMS, rows)


class _TransactionSession(Session):
    """The session of a transaction over many calls, which ignores the commit and close of each call."""

    ended = False
    failure: BaseException | None = None

    def commit(self) -> None:
        self.flush()
        self.expunge_all()  # the next call must read the database again, as it would in its own session

    def close(self) -> None:
        if self.ended:
            super().close()

    def rollback(self) -> None:
        self.ended = True
        self.failure = self.failure or sys.exception()
        super().rollback()

    def commit_transaction(self) -> None:
        """Commit the whole transaction."""
        if self.ended:
            raise RolledBack("rolled back") from self.failure
        super().commit()
        self.ended = True


def _keep_connection(context: ExceptionContext) -> None:
    """Keep the connection to a file after Ctrl-C, so that its transaction can be rolled back.

    SQLAlchemy would close it as one in an unknown state. SQLite closes a connection when its last statement is gone,
    and the traceback references that one: until it is collected, nobody else could write.
    """
    if not isinstance(context.original_exception, Exception):
        context.is_disconnect = False


def _leave_standby(context: ExceptionContext) -> None:
    """End a connection to a server that takes no writes: after a failover, another one does."""
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY_TRANSACTION:
        context.is_disconnect = True


def _connect(path: Path) -> sqlite3.Connection:
    """Open a SQLite file with a write-ahead log.

    Readers never wait. Each transaction is on the disk at its end: neither a kill nor a power cut loses it.
    """
    connection = sqlite3.connect(path, check_same_thread=False, timeout=60)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
    except BaseException:
        connection.close()
        raise
    return connection


# SQLite's codes where it cannot write a database or its log: a read-only file system, a full disk, a disk error.
_UNWRITABLE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
_PRIMARY_CODE = 0xFF  # of an extended code


def _connect_to_read(path: Path) -> sqlite3.Connection:
    """Open a SQLite file to read it, also where nothing can be written.

    To read a database with a write-ahead log, SQLite writes a shared-memory file beside it. Where it cannot, the
    database is opened as immutable, provided that the log has no transactions that the database lacks.

    Raises:
        StoreError: The file has a log that cannot be read here.
    """
    try:
        connection = _connect(path)
        try:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
            return connection
        except BaseException:
            connection.close()
            raise
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & _PRIMARY_CODE not in _UNWRITABLE:
            raise
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            raise StoreError(
                f"{path} cannot be written here, and its last transactions are still in {log.name}; copy its folder to "
                "a disk that can be written"
            ) from error
    return sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
