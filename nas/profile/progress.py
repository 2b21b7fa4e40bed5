"""What a person sees while a profile runs: one line with the time that is left, on a terminal only."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from nas.progress import clock


class LeftColumn(ProgressColumn):
    """Counts down to the task's `deadline`, in seconds of the monotonic clock."""

    def render(self, task: Task) -> Text:
        """The time that is left, and so far spent."""
        left_s = max(0.0, task.fields["deadline"] - time.monotonic())
        return Text(f"ETA {clock(left_s)}, elapsed {clock(task.elapsed or 0.0)}", style="dim")


class ProfileProgress:
    """Call it with what is being done and the seconds that are left; silent where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), LeftColumn(), console=console, transient=True
        )
        self._task = self._bars.add_task("", deadline=0.0)

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Shows the line while the body runs."""
        if not self._console.is_terminal:
            yield
            return
        with self._bars:
            yield

    def __call__(self, what: str, left_s: float) -> None:
        """Shows a new line."""
        self._bars.update(self._task, description=what, deadline=time.monotonic() + left_s)
