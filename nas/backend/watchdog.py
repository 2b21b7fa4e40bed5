"""Watch running trials: kill the process of a trial that hangs, and explain why a worker is gone."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.redaction import public_text
from nas.study.failures import Failure, time_limit_s
from nas.study.records import TrialRecord, TrialState

_CHECK_EVERY_S = 1.0
_STANDSTILL_S = 60.0  # between two checks, after which this process is taken to have stood still
_MAX_PHASE_SECONDS = 99  # earlier trials whose seconds are kept for each phase
_MAX_REASON_CHARACTERS = 300
_COLOR = re.compile(r"\x1b\[[\d;]*m")
_TASK_ERROR = "ray::"  # begins the text of an exception that a worker has raised, and not that of a dead worker
_LOG = logging.getLogger(__name__)


class NotPickled:
    """A mix-in of objects that hold the running loop: Tune pickles its parts for a restore, which is never used."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


@dataclass
class _RunningTrial:
    number: int  # of its record
    actor: Any  # Ray's handle of its worker
    measured_before_rung: int
    phase_start_s: float
    phase: int = 0  # records that it has sent
    hang: str | None = None  # the reason, once its process was killed for it
    unwanted: bool = False  # its process was killed, because the loop needs no result of it

    @property
    def rung(self) -> int | None:
        """Return the rung that it trains to; None while it is measured."""
        measured_at = self.measured_before_rung
        return None if self.phase == measured_at else self.phase - (self.phase > measured_at)


class TrialWatchdog(NotPickled, tune.Callback):  # type: ignore[misc]
    """A callback of Tune that kills the process of a trial whose phase takes too long.

    The process is killed from another process on its node, by SIGKILL: it may be stopped, or hang in code that handles
    no signal, and would keep its memory and the device's lock.

    The time in which this process stands still does not count: Ctrl-Z stops the workers too, and a database that is
    away keeps their results waiting.

    Args:
        limit_s: Time limit of a phase; None for a limit that follows from the same phase of earlier trials.
        now: Returns the time in seconds.
        is_wanted: Tells whether the result of a trial, by its number, may still matter; else its process is killed.
    """

    def __init__(
        self,
        limit_s: float | None,
        now: Callable[[], float] = time.monotonic,
        is_wanted: Callable[[int], bool] = lambda number: True,
    ) -> None:
        self._limit_s, self._now, self._is_wanted = limit_s, now, is_wanted
        self._running: dict[str, _RunningTrial] = {}  # by Tune's trial id
        self._phase_seconds: defaultdict[int | None, deque[float]] = defaultdict(
            lambda: deque(maxlen=_MAX_PHASE_SECONDS)
        )
        self._checked_s = now()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Start the clock of the first phase."""
        record = TrialRecord.from_dict(json.loads(trial.config["record"]))
        self._running[trial.trial_id] = _RunningTrial(
            record.number, trial.temporary_state.ray_actor, record.measured_before_rung, self._now()
        )

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Keep the seconds of the phase, and start the clock of the next one.

        A trial that runs again sends what it has stored within seconds, and the rest of a rung from its checkpoint: the
        record has the seconds of the whole phase. A phase without a result has no seconds to compare with.
        """
        running, now_s = self._running[trial.trial_id], self._now()
        phase_s = _recorded_s(TrialRecord.from_dict(json.loads(result["record"])), running.rung)
        if phase_s is not None:
            self._phase_seconds[running.rung].append(max(now_s - running.phase_start_s, phase_s))
        running.phase, running.phase_start_s = running.phase + 1, now_s

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Forget the trial."""
        self._running.pop(trial.trial_id, None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Forget the trial."""
        self._running.pop(trial.trial_id, None)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Kill the workers whose phase takes longer than its limit."""
        since_s = self._now() - self._checked_s
        if since_s < _CHECK_EVERY_S:
            return
        before_s, self._checked_s = self._checked_s, self._checked_s + since_s
        for trial in self._running.values():
            if since_s > _STANDSTILL_S and trial.phase_start_s <= before_s:
                trial.phase_start_s += since_s
            if not trial.unwanted and not self._is_wanted(trial.number):
                trial.unwanted = True
                ray.kill(trial.actor)  # the driver shows the death of a process that another one kills
            limit_s = time_limit_s(self._phase_seconds[trial.rung], self._limit_s)
            if not trial.hang and self._checked_s - trial.phase_start_s > limit_s:
                trial.hang = f"hang: no result after {limit_s:.0f} s"
                _LOG.warning("phase %d of a trial: %s; its worker is killed", trial.phase, trial.hang)
                _kill_worker(trial.actor)

    def explain_loss(self, trial: Any) -> tuple[Failure, str]:
        """Return the failure of a trial of Tune's whose worker is gone, and its reason in one line."""
        running = self._running.get(trial.trial_id)
        if running is not None and running.hang:
            return Failure.HANG, running.hang
        text = _error_text(trial)
        if text.startswith(_TASK_ERROR):
            return Failure.ERROR, _exception(text)
        return Failure.LOST_WORKER, f"the worker process died: {_death_reason(text)}"


def _recorded_s(record: TrialRecord, rung: int | None) -> float | None:
    """Return the seconds of a phase, a rung or the measurement, by its record; None if it has no result."""
    if record.state is TrialState.FAILED:
        return None
    if rung is None:
        return None if record.measurement is None else record.measurement.seconds
    return record.rungs[rung].seconds if rung < len(record.rungs) else None


def _error_text(trial: Any) -> str:
    """Return the text of the error that Tune keeps in its scratch folder; "" for a trial that ended before it began.

    Tune also keeps the exception itself, pickled: nothing that lies in a folder is unpickled here.
    """
    file = trial.error_file
    if not file or not Path(file).exists():
        return ""
    text = _COLOR.sub("", Path(file).read_text(errors="replace"))
    return text.partition("\n")[2].strip()  # the first line counts the failures


def _exception(traceback: str) -> str:
    """Return the exception at the end of a traceback, with its message, in one line."""
    _, _, below_last_frame = traceback.rpartition('\n  File "')
    lines = below_last_frame.splitlines()[1:]
    return _one_line(" ".join(dropwhile(lambda line: line.startswith(" "), lines)) or traceback)


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def _kill_process(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _kill_worker(actor: Any) -> None:
    """Kill the process of an actor from its own node."""
    state = ray._private.state.actors(actor._actor_id.hex())
    strategy = NodeAffinitySchedulingStrategy(state["Address"]["NodeID"], soft=False)
    _kill_process.options(scheduling_strategy=strategy).remote(state["Pid"])


def _death_reason(error: str) -> str:
    """Return Ray's reason without its advice."""
    text = _one_line(error or "Ray gives no reason")
    match = re.search(r"(?:The actor is dead because|Worker exit detail:|is unavailable:) (.*?)(?:\. |$)", text)
    return match[1] if match else text


def _one_line(text: str) -> str:
    return public_text(" ".join(text.split()))[:_MAX_REASON_CHARACTERS]
