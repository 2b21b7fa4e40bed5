"""The progress of a search: a live panel on a terminal and in a notebook, one line per event elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, RenderableType
from rich.jupyter import JupyterMixin
from rich.table import Table
from rich.text import Text

from nas.command_log import announce
from nas.numbers import clock, fixed, plural
from nas.run_folder import checkpoint_path
from nas.stage_progress import live_panel
from nas.study.loop import StudyLoop
from nas.study.records import TrialRecord, TrialState
from nas.study.timing_doubts import timing_doubt

MIN_EVALUATED = 5  # candidates of a session before the first estimate of its remaining time
SMALL_SEARCH = 10  # candidates; a session of fewer gets a rough estimate earlier
MIN_EVALUATED_OF_SMALL = 2
_EARLY = 20  # candidates of a study that train longer than later ones: the front has few models yet
_PRIOR_CANDIDATES = 10  # that the steps of halving weigh as much as
_RECENT = 40  # evaluated candidates that the pace is taken from, at least; more where the session has more
_MAX_SHOWN = 8  # running trials on the panel
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Remaining:
    """The time that a session still takes.

    Attributes:
        seconds: At the recent pace; None while there is no pace.
        rough: Whether few candidates have set the pace.
        awaited: Candidates until there is a pace.
    """

    seconds: float | None
    rough: bool = False
    awaited: int = 0


class RecentPace:
    """The rate at which the study's workers evaluate candidates, over the recent half of this session.

    The clock starts with the session's first candidate, so that baselines, comparison networks and the teachers do not
    count. The seconds of candidates under way do count: early-stopped candidates end first, and alone they would
    promise too much. The first candidates of a study train longer than later ones: for those to come, the mean steps
    of the recent ones are shrunk towards those of halving.
    """

    def __init__(self) -> None:
        self._steps: list[int] = []  # of each candidate that this session has evaluated
        self._history: list[tuple[float, int]] = []  # seconds of the session, candidates evaluated until then
        self._workers = 0  # the most trials of this session at a time

    def update(self, loop: StudyLoop, record: TrialRecord) -> None:
        """Note the state of the loop after it has stored `record`."""
        if record.baseline or record.scale:
            return
        self._workers = max(self._workers, loop.running)
        if not self._history:
            self._history.append((loop.session_s, loop.evaluated - record.counts))
        if record.counts:
            self._steps.append(record.rungs[-1].steps)
        if loop.evaluated > self._history[-1][1]:
            self._history.append((loop.session_s, loop.evaluated))

    def remaining(self, loop: StudyLoop) -> Remaining:
        """Return the time until the budget is spent.

        There is a pace when `MIN_EVALUATED` candidates are evaluated in this session, and as many as are run at a time.
        """
        start = self._history[0][1] if self._history else loop.evaluated
        done = self._history[-1][1] - start if self._history else 0
        small = loop.config.budget - start < SMALL_SEARCH
        awaited = max(MIN_EVALUATED_OF_SMALL if small else MIN_EVALUATED, self._workers) - done
        if awaited > 0:
            return Remaining(None, awaited=awaited)
        latest_s, evaluated = self._history[-1]
        recent = evaluated - max(_RECENT, done // 2)
        began_s, before = next((point for point in reversed(self._history) if point[1] <= recent), self._history[0])
        left = max(0, loop.config.budget - loop.evaluated)
        early = min(left, max(0, _EARLY - loop.evaluated))
        shares = early + (left - early) * self._share_of_steps(loop, evaluated - before)
        pace_s = (latest_s - began_s) / (evaluated - before)
        return Remaining(min(pace_s * shares, loop.left_s), rough=done < MIN_EVALUATED)

    def _share_of_steps(self, loop: StudyLoop, count: int) -> float:
        """Return the mean steps that later candidates are expected to take, as a share of the last `count` ones'."""
        recent = self._steps[-count:]
        if not recent:
            return 1.0
        steps, eta = (0, *loop.info.rung_steps), loop.config.reduction_factor
        of_halving = sum((steps[i + 1] - steps[i]) / eta**i for i in range(len(steps) - 1))
        expected: float = (sum(recent) + _PRIOR_CANDIDATES * of_halving) / (len(recent) + _PRIOR_CANDIDATES)
        return expected / (sum(recent) / len(recent))


class SearchProgress:
    """A listener of `StudyLoop` that shows budget, remaining time, front, running trials and the last events."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._show: Callable[[RenderableType], object] | None = None
        self._recent: list[str] = []
        self._pace = RecentPace()

    @contextmanager
    def showing(self, loop: StudyLoop) -> Iterator[SearchProgress]:
        """Show the live panel on a terminal or in a notebook while the body runs the loop."""
        with live_panel(self._console, transient=True) as self._show:
            if self._show is not None:
                self._show(self._panel(loop))
            yield self

    def __call__(self, loop: StudyLoop, record: TrialRecord) -> None:
        """Show the new state of a trial, and log it."""
        self._pace.update(loop, record)
        if record.state is not TrialState.RUNNING or record.reason:
            line = describe(record)
            self._recent = [*self._recent[-7:], line]
            whole = f"[{clock(loop.elapsed_s)}] {self.headline(loop)} | {line}"
            if self._show is None:
                announce(whole, _LOG, self._console)
            else:
                _LOG.info("%s", whole)
        if self._show is not None:
            self._show(self._panel(loop))

    def headline(self, loop: StudyLoop) -> str:
        """Return the state of the search in one line: first what comes before the candidates, then the front."""
        results = preliminaries(loop) or f"{front_words(loop)}{_gain_words(loop)}"
        line = f"{loop.evaluated}/{plural(loop.config.budget, 'candidate')}, {results}"
        spent = loop.evaluated >= loop.config.budget  # no further candidate will make a pace known
        return line if spent and self._pace.remaining(loop).seconds is None else f"{line}, ETA {self.eta(loop)}"

    def eta(self, loop: StudyLoop) -> str:
        """Return the remaining time at the recent pace, at most until the deadline; else when it will be known."""
        remaining = self._pace.remaining(loop)
        if remaining.seconds is not None:
            return f"{'roughly ' if remaining.rough else ''}{clock(remaining.seconds)}"
        return f"known after {remaining.awaited} more candidate{'s' if remaining.awaited > 1 else ''}"

    def _panel(self, loop: StudyLoop) -> _Panel:
        states = ", ".join(f"{count} {state.word}" for state, count in sorted(loop.counts.items()) if count)
        return _Panel(loop, loop.evaluated / loop.config.budget, self.headline(loop), states, tuple(self._recent))


@dataclass(frozen=True)
class _Panel(JupyterMixin):
    """The panel as of the last event; the elapsed time and the running trials are those of the moment it is drawn."""

    loop: StudyLoop
    share: float
    headline: str
    states: str
    recent: tuple[str, ...]

    def __rich__(self) -> Table:
        table = Table.grid(padding=(0, 1))
        bar = "━" * round(40 * self.share) + "╌" * (40 - round(40 * self.share))
        table.add_row(Text.assemble((bar, "bold"), f" {self.headline}, elapsed {clock(self.loop.elapsed_s)}"))
        table.add_row(Text(f"now: {under_way(self.loop)}"))
        if self.states:
            table.add_row(Text(self.states, style="dim"))
        for line in self.recent:
            table.add_row(Text(f"  {line}"))
        return table


def front_words(loop: StudyLoop) -> str:
    """Return what a search has found so far: its front, or with one objective its best score.

    Args:
        loop: The search.
    """
    size, volume = loop.front_summary()
    if not size:
        return "no front yet" if len(loop.info.objectives) > 1 else "no score yet"
    if len(loop.info.objectives) == 1:
        scores = (trial.final_score for trial in loop.trials.values() if trial.state is TrialState.COMPLETE)
        return f"best score {max(score for score in scores if score is not None):.3f}"
    return f"front of {size}, hypervolume {volume:.3f}"


def _gain_words(loop: StudyLoop) -> str:
    share = loop.gain_over_noise
    return "" if share is None else f", expected gain {share:.1f}x noise"


def preliminaries(loop: StudyLoop) -> str:
    """Say how many baselines and comparison networks are done, which come first and do not count; "" once all are."""
    trials, names, scale = loop.trials, loop.config.baselines, loop.scale.values()
    trained = len(trials.baselines) - sum(trials[number].baseline is not None for number in trials.running)
    measured = sum(network.state is not TrialState.RUNNING for network in scale)
    if trained >= len(names) and measured == len(scale):
        return ""
    parts = [f"baselines {trained} of {len(names)}"] if names else []
    return ", ".join(parts + ([f"comparison networks {measured} of {len(scale)}"] if scale else []))


def under_way(loop: StudyLoop) -> str:
    """Say what the running trials of this session do."""
    running = loop.running_trials
    words = [_activity(record, loop.info.rung_steps) for record in running[:_MAX_SHOWN]]
    more = [f"and {len(running) - _MAX_SHOWN} more"] if len(running) > _MAX_SHOWN else []
    return ", ".join(words + more) or "starting"


def _activity(record: TrialRecord, rung_steps: tuple[int, ...]) -> str:
    if record.scale:
        return f"comparison network {record.scale} measuring"
    name = f"#{record.number} ({record.baseline})" if record.baseline else f"#{record.number}"
    if record.measurement is None and len(record.rungs) == record.measured_before_rung:
        return f"{name} measuring"
    return f"{name} training to {rung_steps[min(len(record.rungs), len(rung_steps) - 1)]} steps"


def recovered(loop: StudyLoop, checkpoint_dir: Path) -> str:
    """Say what a resumed study has: its finished trials, and those that continue.

    Args:
        loop: The loop of the study, before its first trial.
        checkpoint_dir: Folder of the checkpoints.
    """
    finished = f"{loop.evaluated} of {plural(loop.config.budget, 'candidate')}"
    trained = sum(
        trial.baseline is not None and trial.state is not TrialState.RUNNING for trial in loop.trials.values()
    )
    if loop.config.baselines:
        finished += f" and {trained} of {plural(len(loop.config.baselines), 'baseline')}"
    interrupted = loop.interrupted
    saved = sum(checkpoint_path(checkpoint_dir, trial.arch_id).exists() for trial in interrupted)
    restarting = len(interrupted) - saved
    parts = [f"{saved} continue{'s' if saved == 1 else ''} from a checkpoint"] if saved else []
    parts += [f"{restarting} begin{'s' if restarting == 1 else ''} at step 0"] if restarting else []
    return "; ".join([f"resumed: {finished} finished", *parts])


def describe(record: TrialRecord) -> str:
    """Return one line on a trial that is finished or will be run again."""
    name = f"{record.arch_id} ({record.baseline})" if record.baseline else record.arch_id
    again = record.state is TrialState.RUNNING and record.reason
    title = f"comparison network {record.scale}" if record.scale else f"#{record.number} {name}"
    results = []
    if record.measurement:
        m = record.measurement
        doubt = f" ({why})" if (why := timing_doubt(m)) else ""
        results.append(f"{m.throughput_img_s:.0f} img/s, {m.ratio:.2f}x the reference{doubt}")
    if record.predicted_ratio is not None:
        results.append(f"about {record.predicted_ratio:.2f}x the reference (predicted)")
    if record.rungs:
        results.append(f"score {fixed(record.rungs[-1].score, 3)} after {record.rungs[-1].steps} steps")
    if record.reason and record.state is not TrialState.STOPPED:
        results.append(record.reason)
    return f"{title} {'will run again' if again else record.state.word}" + (
        f": {', '.join(results)}" if results else ""
    )
