"""The progress of a search: a live panel on a terminal, one line per event elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nas.cli import clock
from nas.command_log import announce
from nas.study.loop import StudyLoop
from nas.study.records import TrialRecord, TrialState

_LOG = logging.getLogger(__name__)


class SearchProgress:
    """A listener of `StudyLoop` that shows budget, remaining time, front size, hypervolume and the last events."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._recent: list[str] = []
        self._evaluated_before: int | None = None

    @contextmanager
    def showing(self) -> Iterator[SearchProgress]:
        """Show the live panel on a terminal while the body runs."""
        if not self._console.is_terminal:
            yield self
            return
        with Live(console=self._console, refresh_per_second=2, transient=True) as self._live:
            yield self

    def __call__(self, loop: StudyLoop, record: TrialRecord) -> None:
        """Show the new state of a trial, and log it."""
        if self._evaluated_before is None:
            self._evaluated_before = loop.evaluated - int(record.counts)
        if record.state is not TrialState.RUNNING or record.reason:
            line = describe(record)
            self._recent = [*self._recent[-7:], line]
            whole = f"[{clock(loop.elapsed_s)}] {self._headline(loop)} | {line}"
            if self._live is None:
                announce(whole, _LOG, self._console)
            else:
                _LOG.info("%s", whole)
        if self._live is not None:
            self._live.update(self._panel(loop))

    def _headline(self, loop: StudyLoop) -> str:
        size, volume = loop.front_summary()
        return f"{loop.evaluated}/{loop.config.budget} front {size} hypervolume {volume:.3f} ETA {self.eta(loop)}"

    def eta(self, loop: StudyLoop) -> str:
        """Return the remaining time at this session's pace, or "?" before its first trial has ended."""
        done = loop.evaluated - (self._evaluated_before or 0)
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
    """Return one line on a trial that is finished or will be run again."""
    name = f"{record.arch_id} ({record.baseline})" if record.baseline else record.arch_id
    again = record.state is TrialState.RUNNING and record.reason
    words = [f"#{record.number}", name, "will run again:" if again else record.state.value]
    if record.measurement:
        words.append(f"{record.measurement.throughput_img_s:.0f} img/s ({record.measurement.ratio:.2f}x)")
    if record.rungs:
        words.append(f"score {record.rungs[-1].score:.3f} after {record.rungs[-1].steps} steps")
    if record.reason and record.state is not TrialState.STOPPED:
        words.append(record.reason)
    return " ".join(words)
