"""The report of a search, while it runs and at its end, and the last line that a user sees."""

from __future__ import annotations

import logging
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from threadpoolctl import threadpool_limits

from nas.cli import command_line, one_line
from nas.command_log import announce
from nas.numbers import clock, plural
from nas.search.progress import front_words
from nas.study.loop import Listener, StudyLoop
from nas.study.objectives import on_plane
from nas.study.records import TrialRecord, TrialState, trial_seconds
from nas.terminal import write_line

REPORT_EVERY_S = 60.0  # shortest time between two reports while the search runs
REST_FACTOR = 50  # rest this many times as long as the last report took: reports cost at most 2 % of the time
_TRAINED = (TrialState.COMPLETE, TrialState.STOPPED)
_MAX_REASONS = 3  # of failures, in a line
_LOG = logging.getLogger(__name__)


class LiveReport:
    """A listener of `StudyLoop` that writes the report while the search runs.

    Args:
        run_dir: Folder of the study.
        listener: Another listener, which receives every record first.
        announce: Shows a line to the user.
        now: Returns the time in seconds.
    """

    def __init__(
        self,
        run_dir: Path,
        listener: Listener,
        announce: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run_dir, self._listener, self._announce, self._now = run_dir, listener, announce, now
        self._due_s = now() + REPORT_EVERY_S

    def __call__(self, loop: StudyLoop, record: TrialRecord) -> None:
        """Pass the record on, then write the report if it is due; a report that fails does not stop the search."""
        self._listener(loop, record)
        start_s = self._now()
        if record.state is TrialState.RUNNING or start_s < self._due_s:
            return
        from reports.page import build_report

        try:
            with threadpool_limits(limits=1):  # the other cores train and measure
                build_report(self._run_dir)
        except Exception as error:
            self._announce(f"the report could not be written while the search runs: {one_line(error)}")
        end_s = self._now()
        self._due_s = end_s + max(REPORT_EVERY_S, REST_FACTOR * (end_s - start_s))


def end_search(
    loop: StudyLoop,
    workers: int,
    teacher_seconds: float,
    run_dir: Path,
    ending: str | None,
    console: Console,
    command_s: float,
    with_result: bool = True,
) -> None:
    """Store where the time went, build the report and show how the search ended.

    Args:
        loop: The loop of the study.
        workers: Trials at a time in this session.
        teacher_seconds: Seconds spent on the teachers' outputs, if the study does not have them yet.
        run_dir: Folder of the study.
        ending: How the search ended, in a word or two; None where Ctrl-C or an error ended it, which has its own line.
        console: Takes the last lines; the path of the report goes to stdout.
        command_s: Seconds since the command began.
        with_result: Whether to show the recommended candidate; a race that follows may change it.
    """
    store_time_spent(loop, workers, teacher_seconds)
    announce(_ending_line(loop, ending, command_s), _LOG, console)
    for trial in loop.trials.values():
        if trial.baseline and trial.state in (TrialState.FAILED, TrialState.INFEASIBLE):
            announce(f"the baseline {trial.baseline} has no result: {trial.reason}", _LOG, console, logging.WARNING)
    if not loop.trials:
        return
    if with_result and ending is not None:
        show_result(run_dir, console)
    write_report(run_dir, console)


@dataclass(frozen=True)
class LostModels:
    """The baselines and candidates whose measurement or training failed.

    Args:
        reasons: Why, with the number of models.
        ended: Baselines and candidates that were trained to an end, failed ones included.
    """

    reasons: Counter[str]
    ended: int

    @classmethod
    def among(cls, trials: Iterable[TrialRecord]) -> LostModels:
        """Find them among the trials of a study."""
        ended = [trial for trial in trials if trial.state in (*_TRAINED, TrialState.FAILED)]
        failed = [trial for trial in ended if trial.state is TrialState.FAILED]
        return cls(Counter(trial.reason or "for an unknown reason" for trial in failed), len(ended))

    @property
    def most(self) -> bool:
        """Return whether more models failed than were trained: then the study does not answer its question."""
        return 2 * self.reasons.total() > self.ended

    def __str__(self) -> str:
        """Return how many failed and why, the most frequent reasons first; "" where none did."""
        if not self.reasons:
            return ""
        shown = [f"{reason} ({count} of them)" for reason, count in self.reasons.most_common(_MAX_REASONS)]
        rest = len(self.reasons) - len(shown)
        more = [f"and {plural(rest, 'more reason')}"] if rest else []
        return f"{self.reasons.total()} of {plural(self.ended, 'model')} failed: {'; '.join([*shown, *more])}"


def store_time_spent(loop: StudyLoop, workers: int, teacher_seconds: float) -> None:
    """Store the workers' seconds by purpose, over all sessions."""
    busy = trial_seconds([*loop.trials.values(), *loop.scale.values()], loop.info.rung_steps)
    idle = {"waiting and start-up": max(0.0, loop.worker_seconds(workers) - sum(busy.values()))}
    loop.close({"teachers": loop.info.time_spent.get("teachers", teacher_seconds), **busy, **idle}, workers)


def _ending_line(loop: StudyLoop, ending: str | None, command_s: float) -> str:
    """Return how long the search took and, unless the result's sentences follow, how far it came."""
    sessions = len(loop.info.sessions)
    over = "of it in trials" if sessions == 1 else f"in trials over {sessions} sessions"
    line = f"{f'{ending} ' if ending else ''}after {clock(command_s)}, {clock(loop.elapsed_s)} {over}"
    told = {TrialState.RUNNING} | ({TrialState.COMPLETE, TrialState.STOPPED} if ending else set())
    counts = ", ".join(f"{loop.counts[s]} {s.word}" for s in TrialState if loop.counts[s] and s not in told)
    if ending:
        return f"{line}; {f'{counts}; ' if counts else ''}{front_words(loop)}"
    evaluated = (
        f"{loop.evaluated} of {plural(loop.config.budget, 'architecture')} evaluated{f' ({counts})' if counts else ''}"
    )
    return f"{line}: {evaluated}; {front_words(loop)}"


def show_result(run_dir: Path, console: Console) -> None:
    """Show the recommended candidate, its gains over the best baseline, and the commands that follow a search."""
    from reports.evidence_data import read_evidence
    from reports.export_advice import race_command, remeasure_command
    from reports.headline import doubt_sentence, headline
    from reports.sentences import convergence_words
    from reports.summary import summarize

    evidence = read_evidence(run_dir)
    summary = summarize(evidence.study, evidence)
    folder = shlex.quote(str(run_dir))
    of_study = evidence.record.info, summary, folder
    sentences = *headline(*of_study), convergence_words(evidence.record, folder)
    for sentence in filter(None, sentences):
        announce(sentence, _LOG, console)
    if summary.recommendation is None:
        return
    run = str(run_dir)
    racing = race_command(evidence.record.info, summary, run)
    baselines = ["--baselines"] if summary.baselines else []
    longer = {racing: "which model to choose? Train those that may win for longer"} if racing else {}
    longer[command_line("retrain", [run, *baselines])] = "does the front hold after longer training, with new seeds?"
    doubtful = bool(remeasure_command(evidence.record.info, summary, run) and doubt_sentence(*of_study))
    remeasuring = {command_line("remeasure", [run]): "time the front again, on an idle machine: see above"}
    what = f"the {summary.recommendation.word} model"
    following = {
        command_line("report", [run, "--open"]): "open the report",
        **(remeasuring if doubtful else {}),
        **(longer if on_plane(evidence.record.info.objectives) else {}),
        command_line("train", [run, "--train-steps", "20000"]): f"distill {what} at full length",
        command_line("export", [run, "--format", "timm"]): f"write {what} to a folder",
    }
    width = max(map(len, following))
    announce("next:", _LOG, console)
    for command, purpose in following.items():
        announce(f"  {command:<{width}}  {purpose}", _LOG, console)


def write_report(run_dir: Path, console: Console) -> None:
    """Build the report and say where it is; an error is shown, and must not hide an interruption under way."""
    from reports.page import build_report

    try:
        path = build_report(run_dir)
    except Exception as error:
        _LOG.exception("the report could not be written")
        line = f"the report could not be written: {one_line(error)}; to try again: backbone-nas report {run_dir}"
        announce(line, _LOG, console, logging.WARNING)
        return
    write_line(f"report: {path}")
    _LOG.info("report: %s", path)
