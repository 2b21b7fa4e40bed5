"""Errors of a study's storage, each with a message of one line."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import optuna
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError, SQLAlchemyError

from nas.cli import OperationFailed, one_line

PATIENCE_S = 120.0  # a database that is unavailable for longer ends the session
Result = TypeVar("Result")


class StoreError(ValueError):
    """A study that is missing or unreadable or cannot be written."""


class StoreFailure(StoreError, OperationFailed):
    """A valid study that cannot be read or written, because of a full disk or an unavailable database."""


class DatabaseUnavailable(StoreFailure):
    """A database that cannot be reached, perhaps only for a moment."""


class SamplerError(RuntimeError):
    """An error within a sampler, which is none of the study's storage; the message is one line."""


class RolledBack(RuntimeError):
    """A call within a transaction that an earlier failure has rolled back."""


@contextmanager
def translate_errors(failure: str) -> Iterator[None]:
    """Raise errors of the storage in the body as a StoreError of one line: the failure and its cause."""
    try:
        yield
    except (StoreError, SamplerError):
        raise
    except (
        SQLAlchemyError,
        sqlite3.Error,
        optuna.exceptions.OptunaError,
        OSError,
        RuntimeError,
        AssertionError,
    ) as error:
        raise _store_error(error)(f"{failure}: {_cause(error)}") from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # rows of another version or another program
        raise StoreError(f"{failure}: {type(error).__name__} {_cause(error)}") from error


@contextmanager
def sampler_errors(sampler: object) -> Iterator[None]:
    """Raise errors in calls of a sampler as a `SamplerError`, apart from those of the storage that it reads.

    Args:
        sampler: The sampler, whose class the message names.
    """
    try:
        yield
    except (StoreError, RolledBack, SQLAlchemyError, sqlite3.Error, optuna.exceptions.OptunaError):
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise SamplerError(f"the sampler {type(sampler).__name__} failed: {reason}") from error


def retry_while_unavailable(work: Callable[[], Result], notify: Callable[[str], None], advice: str) -> Result:
    """Return `work()`, and repeat the call while the database is unavailable.

    Args:
        work: Raises `DatabaseUnavailable` to be called again.
        notify: Called with a line when the database becomes unavailable, and when it is available again.
        advice: Ends the message of the error.

    Raises:
        StoreFailure: The database was unavailable for more than `PATIENCE_S`.
    """
    began, pause = None, 0.1
    while True:
        try:
            result = work()
        except DatabaseUnavailable as error:
            if began is None:
                began = time.monotonic()
                notify(f"the database is unavailable, waiting for it for {PATIENCE_S:g} s at most: {error}")
            if time.monotonic() - began > PATIENCE_S:
                raise StoreFailure(f"the database was unavailable for {PATIENCE_S:g} s ({error}); {advice}") from error
            time.sleep(pause)
            pause = min(2 * pause, 5.0)
            continue
        if began is not None:
            notify(f"the database is available again after {time.monotonic() - began:.0f} s")
        return result


def _store_error(error: BaseException) -> type[StoreError]:
    """Return the class of this module for an error."""
    if _is_outage(error):
        return DatabaseUnavailable
    causes = list(_causes(error))
    refused = any(isinstance(cause, sqlite3.OperationalError | OSError | MemoryError) for cause in causes)
    return StoreFailure if refused and not any(isinstance(c, FileNotFoundError) for c in causes) else StoreError


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, down to those of the database's driver."""
    while error is not None:
        yield error
        if isinstance(origin := getattr(error, "orig", None), BaseException):
            yield origin
        error = _preceding(error)


def _is_outage(error: BaseException | None) -> bool:
    """Return whether an error comes from the connection to a server; a SQLite file is never unavailable."""
    while error is not None:
        if isinstance(error, DBAPIError) and not isinstance(error.orig, sqlite3.Error):
            return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
        error = _preceding(error)
    return False


def _preceding(error: BaseException) -> BaseException | None:
    """Return the cause of an error, or its context where Optuna has tried another query after a failed one."""
    return error.__context__ if isinstance(error, PendingRollbackError) else error.__cause__


def _cause(error: BaseException) -> str:
    """Return the database's message on one line."""
    while (preceding := _preceding(error)) is not None:  # Optuna wraps what SQLAlchemy wraps
        error = preceding
    origin = getattr(error, "orig", None) or error
    return " ".join(str(origin).split()) or type(origin).__name__
