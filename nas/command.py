"""What commands share: parsers, consoles, signals and exit codes.

Every command ends with one of these codes, and an error is one line on stderr:

- 0: done.
- 1: failed, and the command is not to blame: a full disk, a dead cluster, a database or a server that cannot be
  reached, no memory left; or the command's answer is no.
- 2: wrong use: an option, a file or a study that this command cannot work with.
- 130: interrupted by Ctrl-C, SIGTERM or SIGHUP.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
EXIT_CODES = """exit codes:
  0    done
  1    failed: a full disk, no memory left, a database or cluster that is gone, or the answer is no
  2    wrong use: an option, a file or a study that this command cannot work with
  130  interrupted
"""
# Paths that a person named; other OSErrors are the machine's.
_WRONG_PATHS = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
PICTURES = (".png", ".svg", ".pdf")
FILE_COLUMNS, LONGEST = 130, 500  # characters; the second of an error
DEVICES = ("auto", "cpu", "cuda")
TEACHER_HELP = "safetensors file with a timm teacher's weights, instead of timm's hub; may be given several times"


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line; ``--help`` has the usage, and at its end the exit codes."""

    def format_help(self) -> str:
        """Return the help of argparse and the exit codes."""
        return f"{super().format_help().rstrip()}\n\n{EXIT_CODES}"

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        print(f"error: {message} (see --help)", file=sys.stderr)
        raise SystemExit(BAD_INPUT)


class NamedFile(argparse.Action):
    """Gathers ``NAME=FILE`` values of a repeatable option as a dict of paths; a name given twice is an error."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        files: dict[str, Path] = getattr(namespace, self.dest, None) or {}
        name, _, file = str(values).partition("=")
        if not (name and file):
            parser.error(f"argument {option_string}: {values!r}: must be NAME=FILE")
        if name in files:
            parser.error(f"argument {option_string}: {name}: a file was given twice")
        setattr(namespace, self.dest, {**files, name: Path(file).expanduser()})


class OperationFailed(Exception):
    """A mix-in of errors that another input would not have avoided: the command ends with exit code 1, not 2."""


def exit_code(work: Callable[[], int], interrupted: str | Callable[[], str] = "the same command continues") -> int:
    """Return what `work` returns, or the code of its error after one line on stderr; see the module for the codes.

    Args:
        work: the command.
        interrupted: what an interruption left, in words.
    """
    with interrupted_by_signals():
        try:
            return work()
        except KeyboardInterrupt:
            print(f"interrupted; {interrupted if isinstance(interrupted, str) else interrupted()}", file=sys.stderr)
            return INTERRUPTED
        except (NotImplementedError, RecursionError):  # RuntimeErrors that are faults of ours
            raise
        except (ValueError, OverflowError, OSError, RuntimeError, MemoryError) as error:
            return report_error(error)


def report_error(error: Exception) -> int:
    """Print the error as one line on stderr and return its exit code."""
    message = one_line(error)
    print(f"error: {message if len(message) <= LONGEST else message[: LONGEST - 1] + '…'}", file=sys.stderr)
    failed = isinstance(error, OperationFailed | RuntimeError | MemoryError | OSError)
    return FAILED if failed and not isinstance(error, _WRONG_PATHS) else BAD_INPUT


def add_training_options(add: Callable[..., object], device: str) -> None:
    """--device (`device` says what for), --cache and --teacher, of commands that train a study's nets."""
    add("--device", metavar="NAME", choices=DEVICES, help=f"{device}auto, cpu or cuda (default: the study's)")
    add("--cache", metavar="DIR", help="folder of images and teacher outputs (default: ~/.cache/backbone-nas)")
    files = {"dest": "teacher_files", "default": {}, "metavar": "NAME=FILE", "help": TEACHER_HELP}
    add("--teacher", action=NamedFile, **files)


def stdout_console() -> Console:
    """For tables: as wide as the terminal; a file or pipe has no width of its own."""
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else FILE_COLUMNS)


def cpu_count() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does; what the caller ignores, as nohup does, stays ignored.

    Only the main thread can have it so: in others the block runs as it is.
    """
    before = {ending: signal.getsignal(ending) for ending in (signal.SIGTERM, signal.SIGHUP)}
    ours = threading.current_thread() is threading.main_thread()
    taken = [ending for ending, handler in before.items() if ours and handler is not signal.SIG_IGN]
    for ending in taken:
        signal.signal(ending, _interrupt)
    try:
        yield
    finally:
        for ending in taken:
            signal.signal(ending, before[ending])


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def picture_file(text: str) -> str:
    """An option's value that names a picture to be drawn; refused before the work rather than after it."""
    path = Path(text)
    if path.suffix not in PICTURES:
        raise argparse.ArgumentTypeError(f"{text!r} must end in one of {', '.join(PICTURES)}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"no such folder {str(path.parent)!r}")
    return text


def one_line(error: BaseException) -> str:
    """The error's message on one line, or its name where it has none."""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot open {error.filename!r}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__
