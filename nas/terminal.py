"""Standard output and error: lines and tables that no text of a study can turn into control of the terminal.

Names and texts come from studies, files and servers of others. A terminal obeys the control characters in them: such a
text could rewrite the screen, the window's title or the clipboard. So all of a command's output passes `visible`, and
only rich writes escape sequences.

A reader that leaves, as ``| head -1`` does, ends the output and not the command, whose exit code stays its answer.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
NON_BREAKING_HYPHEN = "\N{NON-BREAKING HYPHEN}"
_COLUMNS_WITHOUT_TERMINAL = 130
# Control characters but for tab and line feed, marks that reorder a line, and halves of characters, which no output can
# encode: the file names of some disks have them.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Replace the characters of a text that would control a terminal or hide what stands there.

    A hyphen of pages at which no line breaks becomes a plain one, which every font has and every search finds.
    """
    return _INVISIBLE.sub(REPLACEMENT, text.replace(NON_BREAKING_HYPHEN, "-"))


def write_line(text: object, stream: TextIO | None = None) -> None:
    """Write a line that others may have had a hand in.

    Args:
        text: The line, or several.
        stream: `sys.stderr`; None: `sys.stdout`.

    Raises:
        OSError: stdout cannot be written, as on a full disk.
    """
    stream = stream or sys.stdout
    with _writing_to(stream):
        stream.write(f"{visible(str(text))}\n")
        stream.flush()


class SafeConsole(Console):
    """A console that shows texts as they are, without markup and without control of the terminal.

    Args:
        settings: Arguments of rich's `Console`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render an object; rich's own control sequences are segments of their own, and stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))

    def on_broken_pipe(self) -> None:
        """Go on without a reader; rich would end the program."""
        _discard(self.file)


def stdout_console() -> Console:
    """Return a console for tables, as wide as the terminal; a file or a pipe gets a fixed width."""
    return SafeConsole(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _COLUMNS_WITHOUT_TERMINAL)


def stderr_console() -> Console:
    """Return a console for progress, which leaves stdout to results."""
    return SafeConsole(stderr=True, soft_wrap=not sys.stderr.isatty())


def show_cursor() -> None:
    """Show the terminal's cursor, which a live panel hides, before the process ends at once."""
    SafeConsole(file=sys.__stderr__).show_cursor(True)


def open_closed_streams() -> None:
    """Open the null device in place of standard streams that the process was started without, as by ``>&-``.

    Otherwise the next file to be opened, such as a study's database, has the number of a standard stream, and gets what
    libraries write there.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode)  # noqa: SIM115  open until the process ends
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def flush_output() -> None:
    """Write what stdout and stderr still hold; at the end of the interpreter it would be too late for an exit code.

    Raises:
        OSError: stdout cannot be written, as on a full disk.
    """
    for stream in (sys.stdout, sys.stderr):
        with _writing_to(stream):
            stream.flush()


@contextmanager
def _writing_to(stream: TextIO) -> Iterator[None]:
    """Redirect a stream that cannot be written to the null device, so that the flush at exit does not fail again."""
    try:
        yield
    except OSError as error:
        _discard(stream)
        if not isinstance(error, BrokenPipeError) and stream is not sys.stderr:
            raise OSError(error.errno, f"the output cannot be written: {error.strerror}") from None


def _discard(stream: Any) -> None:
    """Send what a stream holds, and all that is written to it from now on, to the null device."""
    with suppress(OSError, ValueError, AttributeError):  # it has no number, as a stream in memory
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, stream.fileno())
        os.close(sink)
