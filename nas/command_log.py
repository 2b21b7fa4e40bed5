"""The log of a command: a file in its run folder and, with ``--verbose``, the same lines on stderr.

Library code logs through ``logging.getLogger(__name__)``. `CommandLog` attaches handlers to the logger ``nas`` while a
command runs, and detaches them when it ends. Every line passes `nas.redaction`, so that no password and no signature of
a URL is written. A line has the time in UTC, the level, the logger's name and the message.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console

from nas.redaction import public_text
from nas.run_folder import LOGS
from nas.terminal import visible, write_line
from search_space.checks import file_itself

Announce = Callable[[str], None]  # shows a line to the user
_PACKAGE = logging.getLogger("nas")
_LOG = logging.getLogger(__name__)
_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class CommandLog:
    """The handlers of the running command; the innermost open log is the current one."""

    current: CommandLog | None = None

    def __init__(self) -> None:
        self._handlers: list[logging.Handler] = []
        self._outer: CommandLog | None = None
        self.verbose = False

    def __enter__(self) -> Self:
        self._outer, CommandLog.current = CommandLog.current, self
        self._level, self._show_warning = _PACKAGE.level, warnings.showwarning
        _PACKAGE.setLevel(logging.INFO)
        warnings.showwarning = self._log_warning
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        CommandLog.current = self._outer
        _PACKAGE.setLevel(self._level)
        warnings.showwarning = self._show_warning
        for handler in self._handlers:
            _PACKAGE.removeHandler(handler)
            with suppress(OSError):  # the disk is full
                handler.close()

    def write_to(self, path: Path) -> None:
        """Append the lines to a file from now on; to none where it cannot be written, or it or its folder is a link."""
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.parent.is_symlink():
                self._attach(_FileHandler(path))

    def show(self) -> None:
        """Show the lines on stderr from now on."""
        if not self.verbose:
            self.verbose = True
            self._attach(_StderrHandler())

    def _attach(self, handler: logging.Handler) -> None:
        handler.setFormatter(_RedactingFormatter(_LINE))
        self._handlers.append(handler)
        _PACKAGE.addHandler(handler)

    def _log_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        self._show_warning(message, category, filename, lineno, file, line)
        _LOG.warning("%s:%d: %s: %s", filename, lineno, category.__name__, message)


class VerboseAction(argparse.Action):
    """The option ``--verbose``, which leaves no trace in the namespace."""

    def __init__(self, option_strings: list[str], dest: str, help: str, **parser_defaults: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, *words: Any) -> None:
        """Show the lines of the current command's log."""
        if CommandLog.current is not None:
            CommandLog.current.show()


def log_to(run_dir: Path, name: str, command: str) -> None:
    """Log the current command into RUN/logs/NAME.log from now on, first its command line."""
    if CommandLog.current is not None:
        CommandLog.current.write_to(run_dir / LOGS / f"{name}.log")
        _LOG.info("%s", command)


def announce(line: str, log: logging.Logger, console: Console | None = None, level: int = logging.INFO) -> None:
    """Show a line to a person on stderr, and log it; with ``--verbose`` the line of the log is what is shown."""
    log.log(level, "%s", line)
    if CommandLog.current is not None and CommandLog.current.verbose:
        return
    if console is None:
        write_line(line, sys.stderr)
    else:
        console.print(line)


class _RedactingFormatter(logging.Formatter):
    """Formats a record as "TIME LEVEL LOGGER: MESSAGE", with the traceback of its error."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Return the time in UTC, to the millisecond."""
        return f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S}.{int(record.msecs):03d}Z"

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without secrets, and without control of a terminal that shows the file."""
        return visible(public_text(super().format(record)))


class _FileHandler(logging.FileHandler):
    def _open(self) -> TextIOWrapper:
        """Return the open file, which is no link."""
        return open(self.baseFilename, "a", encoding="utf-8", errors="backslashreplace", opener=file_itself)

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop the line: a full disk ends the command where its result cannot be kept, not here."""


class _StderrHandler(logging.Handler):
    """Writes to what is `sys.stderr` at the time: a live panel replaces it while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        write_line(self.format(record), sys.stderr)
