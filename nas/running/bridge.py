"""Between a `StudyLoop` and Ray Tune: the loop decides, Tune places work.

`Asker`, a searcher, hands out what the loop asks for; `Gate`, a scheduler, tells the loop what came back and ends the
trials that it ends, so that their workers take the next trial at once. Retries are the loop's, too: to Tune they are
new trials. Nothing here grows with the number of trials that are over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from nas.failures import Failure, spoils_process
from nas.records import TrialRecord, TrialState
from nas.running.places import Places
from nas.running.worker import Stages
from nas.store import StoreError
from nas.study import StudyLoop

_MOMENT_S = 0.05  # between two questions of a driver that only waits for others: Tune asks without a pause

WhyLost = Callable[[Any], tuple[Failure, str]]


class Room(Protocol):
    """Where trials can run at present."""

    def workers(self) -> int:
        """How many at a time."""

    def node_ids(self) -> tuple[str, ...]:
        """On which nodes; (): on any."""

    def holds(self, node_ids: tuple[str, ...]) -> bool:
        """Whether one of these nodes is there; of (), always."""


class Live:
    """Mixin for what holds the live loop: Tune pickles its parts for a restore of its own, which we never do."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


@contextmanager
def _noted(errors: list[StoreError]) -> Iterator[None]:
    """Keeps a store's error: Tune wraps what a callback raises until nothing of it is left."""
    try:
        yield
    except StoreError as error:
        errors.append(error)
        raise


class Asker(Live, Searcher):
    """Gives Tune the loop's next trial whenever there is room for one."""

    def __init__(self, loop: StudyLoop, places: Places, room: Room, stages: Stages, errors: list[StoreError]) -> None:
        super().__init__()
        self._loop, self._places, self._room, self._stages, self._errors = loop, places, room, stages, errors

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        with _noted(self._errors):
            finished: str = Searcher.FINISHED
            if self._loop.finished:
                return finished
            record = self._loop.next_trial() if self._loop.running < self._room.workers() else None
            if record is None:
                if self._loop.finished:
                    return finished
                if not self._loop.running:
                    time.sleep(_MOMENT_S)
                return None
        places = replace(self._places, node_ids=self._room.node_ids())
        return {"record": json.dumps(record.to_dict()), "places": places.to_json(), "stages": self._stages}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the gate has seen it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store has the study."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""


class Gate(Live, FIFOScheduler):
    """Hands every result to the loop and ends the trials that the loop ends, with their checkpoints.

    A trial may only go to nodes that were known to be good when it was asked for. Where all of them are gone before it
    begins, it would wait for ever, and nothing would time it: it is handed back to the loop, to be asked for anew.

    why_lost: says of a trial of Tune's whose worker is gone what became of it.
    """

    def __init__(
        self, loop: StudyLoop, places: Places, room: Room, why_lost: WhyLost, errors: list[StoreError]
    ) -> None:
        super().__init__()
        self._loop, self._checkpoints, self._errors = loop, Path(places.checkpoint_dir), errors
        self._room, self._why_lost = room, why_lost
        self._waiting: dict[str, tuple[Any, tuple[str, ...]]] = {}  # trials that did not begin, and where they may
        self._let_go: set[str] = set()  # trials that are over, and whose worker is to end

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._waiting[trial.trial_id] = trial, Places.from_json(trial.config["places"]).node_ids

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """None: Tune starts what waits, in order, by itself. What waits in vain is taken from it."""
        for trial, node_ids in list(self._waiting.values()):
            if trial.status != Trial.PENDING:
                del self._waiting[trial.trial_id]
            elif trial.temporary_state.ray_actor is None and not self._room.holds(node_ids):
                tune_controller.stop_trial(trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._loop.hand_back(json.loads(trial.config["record"])["number"])

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        record = TrialRecord.from_dict(json.loads(result["record"]))
        if trial.trial_id in self._let_go:  # it has spoken its last word
            stop: str = TrialScheduler.STOP
            return stop
        with _noted(self._errors):
            goes_on = self._loop.take(record)
        self._forget_if_over(record)
        if record.state is TrialState.FAILED and spoils_process(record.failure):
            # A trial without a next record ends with an error, upon which Tune ends the process.
            self._let_go.add(trial.trial_id)
            goes_on = True
        decision: str = TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP
        return decision

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        if trial.trial_id in self._let_go:
            self._let_go.remove(trial.trial_id)
            return
        record = TrialRecord.from_dict(json.loads(trial.config["record"]))
        failure, reason = self._why_lost(trial)
        with _noted(self._errors):
            self._loop.lost(record.number, failure, reason)
        self._forget_if_over(record)

    def _forget_if_over(self, record: TrialRecord) -> None:
        """Removes the checkpoint of a training that is over, and what a killed worker wrote of one."""
        if self._loop.trials[record.number].state is not TrialState.RUNNING:
            for path in self._checkpoints.glob(f"{record.arch_id}.*"):
                path.unlink(missing_ok=True)
