"""What the commands share: exit codes, errors and parsers.

Every command ends with one of these exit codes, and an error is one line on stderr:

- 0: done.
- 1: failed for a reason outside the command line: a full disk, a dead cluster, a database or a server that cannot be
  reached, no memory left, a training that broke down; or the command's answer is no, as where no candidate fits.
- 2: wrong use: an option, a file or a study that the command cannot work with.
- 130: interrupted by Ctrl-C, SIGTERM or SIGHUP.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import logging
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any, NoReturn

from nas.command_log import CommandLog, VerboseAction, announce
from nas.redaction import public_text, public_word
from nas.terminal import flush_output, open_closed_streams, write_line

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
EXIT_CODES = """exit codes:
  0    done
  1    failed: a full disk, no memory left, a database or cluster that cannot be reached, or the answer is no
  2    wrong use: an option, a file or a study that this command cannot work with
  130  interrupted
"""
_ONE_LINE_ERRORS = (ValueError, OverflowError, OSError, RuntimeError, MemoryError)
_BUGS = (NotImplementedError, RecursionError)  # RuntimeErrors that show their traceback
# OSErrors about a path on the command line; the others are failures of the machine.
_PATH_ERRORS = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
_PATH_ERRNOS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)
_MAX_ERROR_CHARS = 500

PROGRAM = "backbone-nas"

_LOG = logging.getLogger(__name__)


# --- exit codes and errors


class OperationFailed(Exception):
    """A mix-in for errors that no other command line would have avoided: they have exit code 1, not 2."""


def exit_code(
    work: Callable[[], int],
    interrupted: str | Callable[[], str] = "run the same command again to continue",
) -> int:
    """Return the result of `work`, or the exit code of its error after one line on stderr.

    The traceback of an error is in the command's log, see `nas.command_log`.

    Args:
        work: The command, from the parsing of its arguments on.
        interrupted: Says what an interruption left.
    """
    open_closed_streams()
    with CommandLog():
        try:
            with logged_work():
                return _with_output(work)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C again: the line is shown all the same
            announce(f"interrupted; {interrupted if isinstance(interrupted, str) else interrupted()}", _LOG)
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # and later: the process ends without a traceback
            return INTERRUPTED
        except Exception as error:
            if isinstance(error, _BUGS) or not isinstance(error, _ONE_LINE_ERRORS):
                raise
            return report_error(error)


def _with_output(work: Callable[[], int]) -> int:
    """Do the work and write what it has printed: a full disk is an error of the command."""
    try:
        return work()
    finally:
        flush_output()


@contextmanager
def logged_work() -> Iterator[None]:
    """Let signals interrupt the block, and log the traceback of an error that ends it."""
    with interrupted_by_signals():
        try:
            yield
        except Exception:
            _LOG.exception("the command ends with an error")
            raise


def report_error(error: Exception) -> int:
    """Print the error as one line on stderr and return its exit code."""
    _print_error(one_line(error))
    failed = isinstance(error, OperationFailed | RuntimeError | MemoryError | OSError)
    return FAILED if failed and not is_of_path(error) else BAD_INPUT


def is_of_path(error: Exception) -> bool:
    """Return whether an error is an OSError that another path on the command line would have avoided."""
    return isinstance(error, _PATH_ERRORS) or (isinstance(error, OSError) and error.errno in _PATH_ERRNOS)


def _print_error(message: str, advice: str = "") -> None:
    """Print "error: MESSAGE" on one line, shortened and without secrets."""
    text = public_text(message).encode("utf-8", "backslashreplace").decode()  # a file's name may be no UTF-8
    line = " ".join(text.split())
    half = _MAX_ERROR_CHARS // 2  # a long value is in the middle, its name before it and the reason after it
    short = line if len(line) <= _MAX_ERROR_CHARS else f"{line[:half]}…{line[1 - half :]}"
    write_line(f"error: {short}{advice}", sys.stderr)


def one_line(error: BaseException) -> str:
    """Return the error's message on one line, without secrets, or its class name if it has none."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"cannot open {error.filename!r}: {error.strerror}" if error.filename else error.strerror
    return public_text(" ".join(text.split())) or type(error).__name__


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt the block as Ctrl-C does; an ignored signal, as under nohup, stays ignored.

    Only the main thread can set handlers: in another thread the block runs unchanged.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    in_main_thread = threading.current_thread() is threading.main_thread()
    replaced = [number for number, handler in handlers.items() if in_main_thread and handler is not signal.SIG_IGN]
    for number in replaced:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in replaced:
            signal.signal(number, handlers[number])


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def command_line(name: str, words: Sequence[str]) -> str:
    """Return a command as a user writes it in a shell.

    Args:
        name: Name of the command.
        words: Its arguments.
    """
    return shlex.join([PROGRAM, name, *words])


# --- parsers


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, with ``--verbose``; ``--help`` ends with the exit codes.

    Flags have to be written in full: an abbreviation would be refused or change its meaning when a flag is added. An
    error names the flag, the value and what is allowed.
    """

    def __init__(self, **settings: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(**{"formatter_class": formatter, "allow_abbrev": False, **settings})
        shown = "show the log's lines on stderr, with time, level and module (default: progress only)"
        self.add_argument("--verbose", action=VerboseAction, help=shown)

    def format_help(self) -> str:
        """Return the help of argparse and the exit codes."""
        return f"{super().format_help().rstrip()}\n\n{EXIT_CODES}"

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the options; a word too many is refused without its secrets."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(map(public_word, unknown))}")
        return options

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Refuse an unknown flag, with the nearest one; argparse would take its value for RUN, and complain of that."""
        words = list(sys.argv[1:] if args is None else args)
        flags = takewhile(lambda word: word != "--", words if self._subparsers is None else ())
        unknown = next((i for i, word in enumerate(flags) if self._is_unknown(word)), None)
        if nothing := next((word for word in words if word.startswith("--") and word.endswith("=--")), None):
            self.error(f"{nothing.removesuffix('=--')}: '--': must be a value")  # argparse would take it for no value
        if unknown is not None:
            value = takewhile(lambda word: not word.startswith("-"), words[unknown + 1 :])
            hint = nearest(words[unknown].partition("=")[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(map(public_word, [words[unknown], *value]))}{hint}")
        return super().parse_known_args(words, namespace)

    def _is_unknown(self, word: str) -> bool:
        return word.startswith("--") and word.partition("=")[0] not in self._option_string_actions

    def error(self, message: str) -> NoReturn:
        """Print the message and end the program."""
        _print_error(re.sub(r"^argument (--[\w-]+)?(/--[\w-]+)*", r"\1", message), " (see --help)")
        raise SystemExit(BAD_INPUT)


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return "; did you mean ...?" with the choice that a word begins, or else resembles most; "" if there is none."""
    by_name = {choice.lstrip("-"): choice for choice in choices}  # the dashes that all have would count as likeness
    name = word.lstrip("-")
    found = [each for each in by_name if name and each.startswith(name)] or difflib.get_close_matches(
        name, by_name, n=1
    )
    return f"; did you mean {by_name[found[0]]}?" if found else ""
