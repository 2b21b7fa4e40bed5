"""The progress of a search: a live panel on a terminal and in a notebook, one line per event elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from nas.cli import clock, live_panel
from nas.command_log import announce
from nas.study.loop import StudyLoop
from nas.study.records import TrialRecord, TrialState

MIN_EVALUATED = 5  # candidates of a session before the first estimate of its remaining time
_RECENT = 40  # evaluated candidates that the pace is taken from, at least; more where the session has more
_LOG = logging.getLogger(__name__)


class RecentPace:
    """The rate at which the study's workers evaluate candidates, over the recent half of this session.

    The clock starts with the session's first candidate, so that baselines, networks for scale and the teachers do not
    count. The seconds of candidates under way do count: early-stopped candidates end first, and alone they would
    promise too much.
    """

    def __init__(self) -> None:
        self._history: list[tuple[float, int]] = []  # seconds of the session, candidates evaluated until then
        self._workers = 0  # the most trials of this session at a time

    def update(self, loop: StudyLoop, record: TrialRecord) -> None:
        """Note the state of the loop after it has stored `record`."""
        if record.baseline or record.scale:
            return
        self._workers = max(self._workers, loop.running)
        if not self._history:
            self._history.append((loop.session_s, loop.evaluated - record.counts))
        if loop.evaluated > self._history[-1][1]:
            self._history.append((loop.session_s, loop.evaluated))

    def remaining_s(self, loop: StudyLoop) -> float | None:
        """Return the seconds until the budget is spent.

        None before `MIN_EVALUATED` candidates are evaluated in this session, and before as many are as run at a time.
        """
        done = self._history[-1][1] - self._history[0][1] if self._history else 0
        if done < max(MIN_EVALUATED, self._workers):
            return None
        latest_s, evaluated = self._history[-1]
        recent = evaluated - max(_RECENT, done // 2)
        began_s, before = next((point for point in self._history if point[1] >= recent), self._history[0])
        return (latest_s - began_s) / (evaluated - before) * max(0, loop.config.budget - loop.evaluated)


class SearchProgress:
    """A listener of `StudyLoop` that shows budget, remaining time, front size, hypervolume and the last events."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._show: Callable[[RenderableType], object] | None = None
        self._recent: list[str] = []
        self._pace = RecentPace()

    @contextmanager
    def showing(self) -> Iterator[SearchProgress]:
        """Show the live panel on a terminal or in a notebook while the body runs."""
        with live_panel(self._console, transient=True) as self._show:
            yield self

    def __call__(self, loop: StudyLoop, record: TrialRecord) -> None:
        """Show the new state of a trial, and log it."""
        self._pace.update(loop, record)
        if record.state is not TrialState.RUNNING or record.reason:
            line = describe(record)
            self._recent = [*self._recent[-7:], line]
            whole = f"[{clock(loop.elapsed_s)}] {self._headline(loop)} | {line}"
            if self._show is None:
                announce(whole, _LOG, self._console)
            else:
                _LOG.info("%s", whole)
        if self._show is not None:
            self._show(self._panel(loop))

    def _headline(self, loop: StudyLoop) -> str:
        size, volume = loop.front_summary()
        return f"{loop.evaluated}/{loop.config.budget} front {size} hypervolume {volume:.3f} ETA {self.eta(loop)}"

    def eta(self, loop: StudyLoop) -> str:
        """Return the remaining time at the recent pace, at most until the deadline; "?" while there is no pace."""
        seconds = self._pace.remaining_s(loop)
        return "?" if seconds is None else clock(min(seconds, loop.left_s))

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
    title = f"for scale: {record.scale}" if record.scale else f"#{record.number} {name}"
    words = [title, "will run again:" if again else record.state.value]
    if record.measurement:
        words.append(f"{record.measurement.throughput_img_s:.0f} img/s ({record.measurement.ratio:.2f}x)")
    if record.rungs:
        words.append(f"score {record.rungs[-1].score:.3f} after {record.rungs[-1].steps} steps")
    if record.reason and record.state is not TrialState.STOPPED:
        words.append(record.reason)
    return " ".join(words)
