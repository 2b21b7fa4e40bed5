"""What can go wrong with a study's storage, in one line for people."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import optuna
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError, SQLAlchemyError

from nas.cli import OperationFailed

PATIENCE_S = 120.0  # a database that is away for longer ends the session
Result = TypeVar("Result")


class StoreError(ValueError):
    """A study that is missing, unreadable or cannot be written; the message is one line for people."""


class StoreFailure(StoreError, OperationFailed):
    """A study that is as it should be and still cannot be read or written: a full disk, a database that is gone."""


class DatabaseUnavailable(StoreFailure):
    """The database could not be reached; it may be there again in a moment."""


class RolledBack(RuntimeError):
    """The transaction is over already: something in it failed."""


@contextmanager
def translate_errors(what: str) -> Iterator[None]:
    """Turns what the storage raises into a StoreError that says `what` and why in one line."""
    try:
        yield
    except StoreError:
        raise
    except (
        SQLAlchemyError,
        sqlite3.Error,
        optuna.exceptions.OptunaError,
        OSError,
        RuntimeError,
        AssertionError,
    ) as error:
        raise _kind(error)(f"{what}: {_cause(error)}") from error
    except (KeyError, TypeError, ValueError) as error:  # records of another version or of another hand
        raise StoreError(f"{what}: {type(error).__name__} {_cause(error)}") from error


def retry_while_unavailable(work: Callable[[], Result], say: Callable[[str], None], advice: str) -> Result:
    """`work()`, again and again while the database is away; StoreError with `advice` after `PATIENCE_S`."""
    began, pause = None, 0.1
    while True:
        try:
            result = work()
        except DatabaseUnavailable as error:
            if began is None:
                began = time.monotonic()
                say(f"the database is away, waiting for it for {PATIENCE_S:g} s at most: {error}")
            if time.monotonic() - began > PATIENCE_S:
                raise StoreFailure(f"the database was away for {PATIENCE_S:g} s ({error}); {advice}") from error
            time.sleep(pause)
            pause = min(2 * pause, 5.0)
            continue
        if began is not None:
            say(f"the database is there again after {time.monotonic() - began:.0f} s")
        return result


def _kind(error: BaseException) -> type[StoreError]:
    """Return the error as one of the classes of this module."""
    if _is_outage(error):
        return DatabaseUnavailable
    causes = list(_causes(error))
    refused = any(isinstance(cause, sqlite3.OperationalError | OSError | MemoryError) for cause in causes)
    return StoreFailure if refused and not any(isinstance(c, FileNotFoundError) for c in causes) else StoreError


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, what it came from, and what the database's driver raised."""
    while error is not None:
        yield error
        if isinstance(origin := getattr(error, "orig", None), BaseException):
            yield origin
        error = _before(error)


def _is_outage(error: BaseException | None) -> bool:
    """Whether a server said it, or is not there to say anything; a SQLite file is never away."""
    while error is not None:
        if isinstance(error, DBAPIError) and not isinstance(error.orig, sqlite3.Error):
            return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
        error = _before(error)
    return False


def _before(error: BaseException) -> BaseException | None:
    """What an error came from; Optuna tries another query after one that failed, which says so by the way only."""
    return error.__context__ if isinstance(error, PendingRollbackError) else error.__cause__


def _cause(error: BaseException) -> str:
    """What the database itself said, in one line."""
    while (before := _before(error)) is not None:  # Optuna wraps what SQLAlchemy wraps
        error = before
    origin = getattr(error, "orig", None) or error
    return " ".join(str(origin).split()) or type(origin).__name__
