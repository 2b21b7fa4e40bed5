"""What commands share: parsers, consoles, signals and exit codes.

Every command ends with one of these codes, and an error is one line on stderr:

- 0: done.
- 1: failed, and the command is not to blame: a full disk, a dead cluster, a database or a server that cannot be
  reached, no memory left; or the command's answer is no.
- 2: wrong use: an option, a file or a study that this command cannot work with.
- 130: interrupted by Ctrl-C, SIGTERM or SIGHUP.

What this machine gives the commands: a cache and lock folder for what outlives them, and its CPUs.

What a person sees while a search runs: a live panel on a terminal, one line an event elsewhere.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nas.command_log import CommandLog, VerboseAction, announce

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
EXIT_CODES = """exit codes:
  0    done
  1    failed: a full disk, no memory left, a database or cluster that is gone, or the answer is no
  2    wrong use: an option, a file or a study that this command cannot work with
  130  interrupted
"""
# Paths that a person named; other OSErrors are the machine's.
_WRONG_PATHS = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
_ONE_LINE_ERRORS = (ValueError, OverflowError, OSError, RuntimeError, MemoryError)
_FAULTS = (NotImplementedError, RecursionError)  # RuntimeErrors that are faults of ours
PICTURES = (".png", ".svg", ".pdf")
FILE_COLUMNS, LONGEST = 130, 500  # characters; the second of an error
DEVICES = ("auto", "cpu", "cuda")
_LOG = logging.getLogger(__name__)
TEACHER_HELP = "safetensors file with a timm teacher's weights, instead of timm's hub; may be given several times"


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, with ``--verbose``; ``--help`` ends with the exit codes."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        shown = "show the log's lines on stderr, with time, level and module (default: progress only)"
        self.add_argument("--verbose", action=VerboseAction, help=shown)

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


def exit_code(
    work: Callable[[], int],
    redact: Callable[[str], str],
    interrupted: str | Callable[[], str] = "the same command continues",
) -> int:
    """Return what `work` returns, or the code of its error after one line on stderr; see the module for the codes.

    The traceback of an error is in the command's log, see `nas.command_log`.

    Args:
        work: The command, from the parsing of its arguments on.
        redact: Removes the secrets from a line of the log.
        interrupted: Says what an interruption left.
    """
    with CommandLog(redact), interrupted_by_signals():
        try:
            return work()
        except KeyboardInterrupt:
            announce(f"interrupted; {interrupted if isinstance(interrupted, str) else interrupted()}", _LOG)
            return INTERRUPTED
        except Exception as error:
            _LOG.exception("the command ends with an error")
            if isinstance(error, _FAULTS) or not isinstance(error, _ONE_LINE_ERRORS):
                raise
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


def cache_root(given: str | None = None) -> Path:
    """`given`, else the variable BACKBONE_NAS_CACHE, else ~/.cache/backbone-nas."""
    fallback = os.environ.get("BACKBONE_NAS_CACHE", str(Path.home() / ".cache" / "backbone-nas"))
    return Path(fallback if given is None else given)


def lock_dir() -> Path:
    """One folder a user on this machine, in which each device has its own (`nas.measure.environment.device_key`), so
    that two commands do not measure beside each other.
    """
    return Path(tempfile.gettempdir()) / f"backbone-nas-{os.getuid()}"


def cpu_count() -> int:
    """Return how many CPUs this process may use: of its affinity, where the system knows one."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def checkpoint_interval_s() -> float:
    """Seconds of training that a killed process may lose: the variable BACKBONE_NAS_CHECKPOINT_S, else 30."""
    given = os.environ.get("BACKBONE_NAS_CHECKPOINT_S", "30")
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise ValueError(f"BACKBONE_NAS_CHECKPOINT_S: {given!r}: must be a number of seconds, 0 or more")
    return seconds


def checkpoint_path(folder: Path, arch_id: str) -> Path:
    """Where the training of an architecture leaves its checkpoint while it is under way."""
    return folder / f"{arch_id}.pt"


_LINE_EVERY_S = 10.0  # between progress lines of one long stage when not on a terminal


class StageProgress:
    """Progress of the stages before the search (images, teachers). Call it with (stage, done, total)."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = _bars(console)
        self._tasks: dict[str, object] = {}
        self._last_line_s: dict[str, float] = {}
        self._began: dict[str, tuple[float, int]] = {}

    @contextmanager
    def showing(self) -> Iterator[StageProgress]:
        """Shows the bars while the body runs; on anything but a terminal only lines are printed."""
        if not self._console.is_terminal:
            yield self
            return
        with self._bars:
            yield self

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Moves the stage's bar to `done` of `total`."""
        if self._console.is_terminal:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total)
            self._bars.update(self._tasks[stage], completed=done, total=total)  # type: ignore[arg-type]
        now = time.monotonic()
        if done >= total or now - self._last_line_s.get(stage, now - _LINE_EVERY_S) >= _LINE_EVERY_S:
            self._last_line_s[stage] = now
            began, before = self._began.setdefault(stage, (now, done))
            eta = f" ETA {clock((now - began) / (done - before) * (total - done))}" if before < done < total else ""
            line = f"{stage}: {done}/{total}{eta}"
            if self._console.is_terminal:
                _LOG.info("%s", line)
            else:
                announce(line, _LOG, self._console)


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def stderr_console() -> Console:
    """Progress goes to stderr, so that stdout stays for results."""
    return Console(stderr=True, soft_wrap=not sys.stderr.isatty())


def _bars(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)
