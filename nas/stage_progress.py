"""The progress of work that takes minutes: bars in a terminal and a notebook, lines elsewhere."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from nas.command_log import announce
from nas.numbers import clock

_LINE_S = 10.0  # between two lines without a terminal
_NOTEBOOK_REFRESH_S = 0.5  # between two updates of a notebook's panel: each is a message to the browser
_LOG = logging.getLogger(__name__)


@contextmanager
def live_panel(console: Console, transient: bool) -> Iterator[Callable[[RenderableType], object] | None]:
    """Yield a function that replaces what a panel shows; None where there is no panel, and lines are printed instead.

    Args:
        console: A terminal or a Jupyter notebook has a panel, a file or a pipe has none.
        transient: Whether a terminal's panel is removed at the end; a notebook's stays, with its last content.
    """
    if console.is_jupyter:
        yield from _notebook_panel()
    elif console.is_terminal:
        with Live(console=console, refresh_per_second=4, transient=transient) as live:
            yield live.update
    else:
        yield None


def _notebook_panel() -> Iterator[Callable[[RenderableType], object]]:
    """Yield a function that replaces one output of the running cell, at most twice a second and at the end."""
    from IPython.display import display

    handle = display(Text(), display_id=True)
    newest: RenderableType = Text()
    shown_s = -math.inf

    def show(renderable: RenderableType) -> None:
        nonlocal newest, shown_s
        newest = renderable
        if time.monotonic() - shown_s >= _NOTEBOOK_REFRESH_S:
            shown_s = time.monotonic()
            handle.update(renderable)

    try:
        yield show
    finally:
        handle.update(newest)


class StageProgress:
    """The progress of the stages before a search, such as images and teachers; call it with (stage, done, total).

    A terminal and a notebook show bars. Another console gets a line at the end of each stage, and between these one at
    most every ten seconds.

    Args:
        console: Where the progress is shown.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        counts = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        self._bars = Progress(*counts, TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(), console=console)
        self._show: Callable[[RenderableType], object] | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line, self._last_line_s = "", -math.inf
        self._first: dict[str, tuple[float, int]] = {}  # stage -> time and `done` of its first call

    @contextmanager
    def showing(self) -> Iterator[StageProgress]:
        """Show the bars during the body, on a terminal and in a notebook."""
        with live_panel(self._console, transient=False) as self._show:
            yield self

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done in a stage."""
        if self._show is not None:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total)
            self._bars.update(self._tasks[stage], completed=done, total=total)
            self._show(self._bars)
        now = time.monotonic()
        start, before = self._first.setdefault(stage, (now, done))
        if done < total:
            if now - self._last_line_s < _LINE_S:
                return
            self._last_line_s = now
        eta = f" ETA {clock((now - start) / (done - before) * (total - done))}" if before < done < total else ""
        line = f"{stage}: {done}/{total}{eta}"
        if line == self._last_line:  # an end that is reported again
            return
        self._last_line = line
        if self._show is not None:
            _LOG.info("%s", line)
        else:
            announce(line, _LOG, self._console)
