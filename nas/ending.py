"""The report of a session of ``nas.search``, while it runs and at its end; the ledger and a last line."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from threadpoolctl import threadpool_limits

from nas.command import one_line
from nas.ledger import spent
from nas.progress import clock
from nas.records import TrialRecord, TrialState
from nas.study import Listener, StudyLoop

REPORT_EVERY_S = 60.0  # at most, while the search runs
REST = 50  # times as long as the last report took: writing them costs 2 % of the time at most


class LiveReport:
    """Listener that writes the report while the search runs, when a trial has ended and it is time again.

    Args:
        then: the listener that hears of every record first.
        say: shows a line to people.
        now: tells seconds.
    """

    def __init__(
        self, run_dir: Path, then: Listener, say: Callable[[str], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._run_dir, self._then, self._say, self._now = run_dir, then, say, now
        self._due = now() + REPORT_EVERY_S

    def __call__(self, loop: StudyLoop, record: TrialRecord) -> None:
        """Passes the record on; then the report, where it is due. What fails there is said, and the search goes on."""
        self._then(loop, record)
        began = self._now()
        if record.state is TrialState.RUNNING or began < self._due:
            return
        from reports.page import build_report

        try:
            with threadpool_limits(limits=1):  # the other cores train and measure
                build_report(self._run_dir)
        except Exception as error:
            self._say(f"the report could not be written while the search runs: {one_line(error)}")
        ended = self._now()
        self._due = ended + max(REPORT_EVERY_S, REST * (ended - began))


def end(loop: StudyLoop, workers: int, teacher_seconds: float, run_dir: Path, ending: str, console: Console) -> None:
    """Writes the ledger, builds the report and says how the search ended.

    Args:
        workers: of this session, at a time.
        teacher_seconds: that the teachers' outputs took, if the study does not know it yet.
        ending: in a word or two.
    """
    _close(loop, workers, teacher_seconds)
    _report(loop, run_dir, ending, console)


def _close(loop: StudyLoop, workers: int, teacher_seconds: float) -> None:
    """Writes the ledger: where the workers' seconds went, over all sessions."""
    ledger = {"teachers": loop.info.ledger.get("teachers", teacher_seconds)}
    ledger |= spent(loop.trials.values(), loop.info.rung_steps)
    ledger["waiting and start-up"] = max(0.0, loop.worker_seconds(workers) - sum(ledger.values()) + ledger["teachers"])
    loop.close(ledger, workers)


def _report(loop: StudyLoop, run_dir: Path, ending: str, console: Console) -> None:
    """Builds the HTML report and says how the search ended."""
    from reports.page import build_report

    size, volume = loop.front_summary()
    counts = ", ".join(
        f"{loop.counts[s]} {s.value}" for s in TrialState if loop.counts[s] and s is not TrialState.RUNNING
    )
    console.print(
        f"{ending} after {clock(loop.elapsed_s)}: {loop.evaluated} unique architectures evaluated ({counts}); "
        f"front of {size}, hypervolume {volume:.3f}",
        highlight=False,
    )
    if not loop.trials:
        return
    try:
        print(build_report(run_dir))
    except Exception as error:  # the study is whole; and an interruption on its way must not be lost behind this
        again = f"the report could not be written: {one_line(error)}; for another try: python -m reports {run_dir}"
        console.print(again, highlight=False, markup=False)
