"""Looks after running trials: ends the process of one that hangs, and says why a worker is gone."""

from __future__ import annotations

import os
import pickle
import re
import signal
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.study.failures import Failure, time_limit_s

_EVERY_S = 1.0  # between looks at who hangs
_EARLIER = 99  # trials whose seconds are kept for each stage


class NotPickled:
    """Mixin for what holds the live loop: Tune pickles its parts for a restore of its own, which we never do."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


@dataclass
class _Run:
    """A trial under way."""

    actor: str  # Ray's id of its worker
    stage: int = 0  # records that came
    since: float = field(default_factory=time.monotonic)
    hung: str | None = None  # why its process was ended


class Watch(NotPickled, tune.Callback):  # type: ignore[misc]
    """Notes when each trial was last heard of; the time limit of a stage is `limit_s`, or follows from earlier trials.

    A process is ended from another one on its node, by SIGKILL: it may be stopped, or hang in code that listens to
    nothing, and would keep its memory and the device's lock.
    """

    def __init__(self, limit_s: float | None) -> None:
        self._limit_s = limit_s
        self._runs: dict[str, _Run] = {}
        self._earlier_s: defaultdict[int, deque[float]] = defaultdict(lambda: deque(maxlen=_EARLIER))
        self._looked = 0.0

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._runs[trial.trial_id] = _Run(trial.temporary_state.ray_actor._actor_id.hex())

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        run, now = self._runs[trial.trial_id], time.monotonic()
        self._earlier_s[run.stage].append(now - run.since)
        run.stage, run.since = run.stage + 1, now

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._runs.pop(trial.trial_id, None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._runs.pop(trial.trial_id, None)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._looked < _EVERY_S:
            return
        self._looked = time.monotonic()
        for run in self._runs.values():
            limit = time_limit_s(self._earlier_s[run.stage], self._limit_s)
            if not run.hung and self._looked - run.since > limit:
                run.hung = f"hang: no result after {limit:.0f} s"
                _kill(run.actor)

    def why_lost(self, trial: Any) -> tuple[Failure, str]:
        """What became of a trial of Tune's whose worker is gone."""
        run = self._runs.get(trial.trial_id)
        if run is not None and run.hung:
            return Failure.HANG, run.hung
        error = _error_of(trial)
        if isinstance(error, ray.exceptions.RayTaskError):
            return Failure.ERROR, _one_line(str(error.cause or error))
        return Failure.LOST_WORKER, f"the worker process died: {_words(error)}"


def _error_of(trial: Any) -> Exception | None:
    """What Tune keeps of it in its own scratch folder; of an end before the start, nothing."""
    file = trial.pickled_error_file
    return pickle.loads(Path(file).read_bytes()) if file and Path(file).exists() else None


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def _end(process: int) -> None:
    os.kill(process, signal.SIGKILL)


def _kill(actor: str) -> None:
    found = ray._private.state.actors(actor)
    node_id = found["Address"]["NodeID"]
    _end.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote(found["Pid"])


def _words(error: Exception | None) -> str:
    """Ray's own reason, without its advice."""
    text = _one_line(str(error or "Ray says nothing"))
    found = re.search(r"(?:The actor is dead because|Worker exit detail:|is unavailable:) (.*?)(?:\. |$)", text)
    return found[1] if found else text


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
