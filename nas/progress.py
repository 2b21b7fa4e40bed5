"""What a person sees while a search runs: a live panel on a terminal, one line an event elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from nas.records import TrialRecord, TrialState
from nas.study import StudyLoop

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


class SearchProgress:
    """Listener of a `StudyLoop`: budget, ETA, front size, hypervolume, the last events."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._recent: list[str] = []
        self._done_before: int | None = None

    @contextmanager
    def showing(self) -> Iterator[SearchProgress]:
        """Shows the live panel while the body runs, where there is a terminal."""
        if not self._console.is_terminal:
            yield self
            return
        with Live(console=self._console, refresh_per_second=2, transient=True) as self._live:
            yield self

    def __call__(self, loop: StudyLoop, record: TrialRecord) -> None:
        """Shows a new state of the study."""
        if self._done_before is None:
            self._done_before = loop.evaluated - int(record.counts)
        if record.state is not TrialState.RUNNING or record.reason:
            line = describe(record)
            self._recent = [*self._recent[-7:], line]
            if self._live is None:
                self._console.print(
                    f"[{clock(loop.elapsed_s)}] {self._headline(loop)} | {line}", highlight=False, markup=False
                )
        if self._live is not None:
            self._live.update(self._panel(loop))

    def _headline(self, loop: StudyLoop) -> str:
        size, volume = loop.front_summary()
        return f"{loop.evaluated}/{loop.config.budget} front {size} hypervolume {volume:.3f} ETA {self.eta(loop)}"

    def eta(self, loop: StudyLoop) -> str:
        """Remaining time at this session's pace, or "?" before the first trial ended."""
        done = loop.evaluated - (self._done_before or 0)
        if done <= 0:
            return "?"
        return clock(loop.session_s / done * (loop.config.budget - loop.evaluated))

    def _panel(self, loop: StudyLoop) -> Table:
        table = Table.grid(padding=(0, 1))
        share = loop.evaluated / loop.config.budget
        bar = "━" * round(40 * share) + "╌" * (40 - round(40 * share))
        table.add_row(f"[bold]{bar}[/] {self._headline(loop)}  elapsed {clock(loop.elapsed_s)}")
        states = ", ".join(f"{count} {state.value}" for state, count in sorted(loop.counts.items()))
        table.add_row(f"[dim]{states}[/]")
        for line in self._recent:
            table.add_row(Text(f"  {line}"))
        return table


def describe(record: TrialRecord) -> str:
    """A trial that is finished, or will be run again, in one line."""
    who = f"{record.arch_id} ({record.baseline})" if record.baseline else record.arch_id
    again = record.state is TrialState.RUNNING and record.reason
    words = [f"#{record.number}", who, "is put off:" if again else record.state.value]
    if record.measurement:
        words.append(f"{record.measurement.throughput_img_s:.0f} img/s ({record.measurement.ratio:.2f}x)")
    if record.rungs:
        words.append(f"quality {record.rungs[-1].quality:.3f} after {record.rungs[-1].steps} steps")
    if record.reason and record.state is not TrialState.STOPPED:
        words.append(record.reason)
    return " ".join(words)


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
