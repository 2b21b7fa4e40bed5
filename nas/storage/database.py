"""Optuna's storage, with transactions over many of its calls.

By itself Optuna commits every call, and every parameter of a trial: a kill between two of them leaves half a trial,
and two drivers can act on the same view. Inside `Database.transaction` all calls are one transaction, which begins with
a lock of the database: on PostgreSQL of the row of the study or the trial, on SQLite of the file for writing.
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import RDBStorage
from sqlalchemy import Engine, Executable, Row, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from nas.storage.errors import RolledBack
from nas.storage.location import STUDY_FILE, StudyLocation

_LOCK_STUDY = "SELECT 1 FROM studies WHERE study_id = :id FOR UPDATE"
_LOCK_TRIAL = "SELECT 1 FROM trials WHERE trial_id = :id FOR UPDATE"
_PARAMS = text(
    "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) "
    "VALUES (:trial_id, :param_name, :param_value, :distribution_json)"
)
_ATTRIBUTE = text(
    "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (:trial_id, :key, :value_json) "
    "ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json"
)
# A machine that vanishes, or a process that is stopped in the middle of something, must not keep its locks.
_SERVER_OPTIONS = (
    "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3 "
    "-c idle_in_transaction_session_timeout=120s"
)


class Database(RDBStorage):
    """An RDBStorage whose calls can be joined into one transaction. For one thread.

    A context manager; `close` gives all connections back, and a later call would open one anew.
    """

    def __init__(self, place: StudyLocation) -> None:
        try:
            self._connect(place)
        except BaseException:  # Optuna reads the database before it is done
            if isinstance(engine := getattr(self, "engine", None), Engine):
                engine.dispose()
            raise
        self._own_sessions = self.scoped_session
        self.scoped_session = self._session  # type: ignore[assignment]

    def _connect(self, place: StudyLocation) -> None:
        self._joined: _Joined | None = None
        self._params: list[dict[str, Any]] = []
        self._turns: Path | None = None
        if place.url is None:
            # Opened by ourselves: in a URL, a `?` in its path would begin the options.
            path = place.run_dir.resolve() / STUDY_FILE
            self._turns = path.with_suffix(".lock")
            super().__init__("sqlite://", {"creator": lambda: _connect(path), "poolclass": QueuePool})
        else:
            url = place.url.update_query_dict({"connect_timeout": "10", "options": _SERVER_OPTIONS, **place.url.query})
            template = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
            super().__init__(template)

    def close(self) -> None:
        """Close every connection to the database."""
        self._own_sessions.remove()
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is under way."""
        return self._joined is not None

    @property
    def is_file(self) -> bool:
        """Whether this is SQLite."""
        return bool(self.engine.name == "sqlite")

    @contextmanager
    def transaction(self, *, study: int | None = None, trial: int | None = None) -> Iterator[None]:
        """One transaction, alone with this study or trial; inside another transaction, a part of that one."""
        if self._joined is not None:
            if trial is not None:
                self._lock(_LOCK_TRIAL, trial)
            yield
            return
        with self._turn(), _Joined(bind=self.engine) as joined:
            self._joined = joined
            try:
                if self.is_file:
                    joined.execute(text("BEGIN IMMEDIATE"))
                if study is not None:
                    self._lock(_LOCK_STUDY, study)
                if trial is not None:
                    self._lock(_LOCK_TRIAL, trial)
                yield
                self._write_params(joined)
                joined.commit_all()
            except BaseException:
                joined.rollback()
                raise
            finally:
                self._joined, self._params = None, []

    def rows(self, statement: Executable, values: dict[str, Any]) -> Sequence[Row[Any]]:
        """What a query finds, in the transaction if there is one."""
        if self._joined is not None:
            self._write_params(self._joined)
            return self._joined.execute(statement, values).all()
        with self.engine.connect() as connection:
            return connection.execute(statement, values).all()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Writers of a file come one after another: SQLite alone has them try again at longer and longer intervals."""
        if self._turns is None:
            yield
            return
        with self._turns.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # ends with the process
            yield

    def put(self, trial: int, key: str, value: Any) -> None:
        """Writes a user attribute of a trial, in a transaction. As Optuna does, which first reads the trial."""
        assert self._joined is not None
        self._joined.execute(_ATTRIBUTE, {"trial_id": trial, "key": key, "value_json": json.dumps(value)})

    def _lock(self, statement: str, number: int) -> None:
        if not self.is_file and self._joined is not None:  # a file is locked as a whole
            self._joined.execute(text(statement), {"id": number})

    def _session(self) -> Session:
        """What Optuna opens for every call."""
        if self._joined is None:
            return self._own_sessions()
        if self._joined.over:
            raise RolledBack("rolled back") from self._joined.failure  # Optuna would try again, without the lock
        self._write_params(self._joined)
        return self._joined

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        """In a transaction kept until the next call, so that a trial's parameters are written at once."""
        if self._joined is None:
            super()._set_trial_param(trial_id, param_name, param_value_internal, distribution, previous_distribution)
            return
        row = {"trial_id": trial_id, "param_name": param_name, "param_value": param_value_internal}
        self._params.append({**row, "distribution_json": distribution_to_json(distribution)})

    def _write_params(self, session: Session) -> None:
        rows, self._params = self._params, []
        if rows:
            session.execute(_PARAMS, rows)


class _Joined(Session):
    """The session of a transaction over many calls: each of them ends it, and it does not end."""

    over = False
    failure: BaseException | None = None

    def commit(self) -> None:
        self.flush()
        self.expunge_all()  # the next call reads anew, as it does with a session of its own

    def close(self) -> None:
        if self.over:
            super().close()

    def rollback(self) -> None:
        self.over = True
        self.failure = self.failure or sys.exception()
        super().rollback()

    def commit_all(self) -> None:
        """The real end."""
        if self.over:
            raise RolledBack("rolled back") from self.failure
        super().commit()
        self.over = True


def _connect(path: Path) -> sqlite3.Connection:
    """Write-ahead log: readers never wait, and a killed process loses nothing; only a power cut can lose moments."""
    connection = sqlite3.connect(path, check_same_thread=False, timeout=60)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection
