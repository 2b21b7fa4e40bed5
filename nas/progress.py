"""What a person sees while a search runs: a live panel on a terminal, one line an event elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


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
            return
        now = time.monotonic()
        if done >= total or now - self._last_line_s.get(stage, now - _LINE_EVERY_S) >= _LINE_EVERY_S:
            self._last_line_s[stage] = now
            began, before = self._began.setdefault(stage, (now, done))
            eta = f" ETA {clock((now - began) / (done - before) * (total - done))}" if before < done < total else ""
            self._console.print(f"{stage}: {done}/{total}{eta}", highlight=False)


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
