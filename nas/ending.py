"""The end of a session of ``nas.search``: the ledger, the report, a last line."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from nas.progress import clock
from nas.records import TrialState
from nas.study import StudyLoop


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
    trials = loop.trials.values()
    ledger = {"teachers": loop.info.ledger.get("teachers", teacher_seconds)}
    ledger["measure"] = sum(t.measurement.seconds for t in trials if t.measurement)
    for rung, steps in enumerate(loop.info.rung_steps):
        spent = sum(t.rungs[rung].seconds for t in trials if len(t.rungs) > rung)
        ledger[f"train to {steps} steps"] = spent
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
    if loop.trials:
        print(build_report(run_dir))
