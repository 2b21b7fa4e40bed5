"""The trials of a study in its database: asked and written whole, each with whose it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.trial import TrialState as OptunaState
from sqlalchemy import bindparam, text

from nas.records import TrialRecord, TrialState
from nas.storage.database import Database
from nas.storage.errors import speaking
from nas.storage.place import Place
from nas.storage.presence import FileLocks, Presence, ServerLocks, myself

_OPTUNA_STATES = {
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.STOPPED: OptunaState.PRUNED,
    TrialState.INFEASIBLE: OptunaState.PRUNED,
    TrialState.DUPLICATE: OptunaState.PRUNED,
    TrialState.FAILED: OptunaState.FAIL,
}
_ROWS = (
    "SELECT t.trial_id, t.number, t.state, r.value_json AS record, d.value_json AS driver FROM trials t"
    " JOIN trial_user_attributes r ON r.trial_id = t.trial_id AND r.key = 'record'"
    " LEFT JOIN trial_user_attributes d ON d.trial_id = t.trial_id AND d.key = 'driver'"
)
_NEW = text(f"{_ROWS} WHERE t.study_id = :study AND t.trial_id > :last ORDER BY t.trial_id")
_SOME = text(f"{_ROWS} WHERE t.trial_id IN :some ORDER BY t.trial_id").bindparams(bindparam("some", expanding=True))


class Trials:
    """The part of `nas.store.Store` that a driver works with.

    Args:
        place: where the study lies.
        say: called with a line when the database is away, and when it is back.
    """

    def __init__(
        self, place: Place, database: Database, study: optuna.Study, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self.place = place
        self.say = say
        self._database = database
        self._study = study
        self._presence: Presence | None = None
        self._ids: dict[int, int] = {}  # number -> Optuna's id
        self._last = -1  # highest id that `changes` has told
        self._stale = False  # Optuna's cache may hold what was rolled back

    @property
    def driver(self) -> str:
        """A name for this process, among those that work on the study."""
        return myself().rpartition(":")[2]

    def join(self) -> None:
        """From here on other drivers know that this one is alive, and whose trials are whose."""
        with speaking("the study cannot be joined"):
            if self._presence is None:
                database = self._database
                self._presence = FileLocks(self.place.run_dir) if database.is_file else ServerLocks(database.engine)

    def leave(self) -> None:
        """What this driver left running may be taken over."""
        if self._presence is not None:
            self._presence.leave()
            self._presence = None

    def may_take(self, driver: str | None) -> bool:
        """Whether the running trials of `driver` are anybody's: it is dead, or this very process, or of before."""
        if driver is None or driver == myself() or self._presence is None:
            return True
        with speaking("the study cannot be read"):
            return self._presence.gone(driver)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other driver is in here at the same time; all that the body writes is written at its end, or nothing."""
        with speaking("the study cannot be written"), self._transaction(study=self._study._study_id):
            yield

    def ask(
        self, choices: Mapping[str, Sequence[Any]], fixed: Mapping[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """The number and parameters of a new trial from the sampler, or with the parameters `fixed`."""
        with speaking("the study cannot be written"), self._transaction(study=self._study._study_id):
            trial = self._new(fixed)
            self._ids[trial.number] = trial._trial_id
            return trial.number, {n: trial.suggest_categorical(n, tuple(values)) for n, values in choices.items()}

    def save(self, record: TrialRecord, values: Sequence[float] | None = None) -> bool:
        """Writes a trial's record and, once it is no longer running, tells Optuna its state.

        `values` are the objectives of a COMPLETE trial and ignored for any other. False, and nothing is written, where
        another driver has taken the trial over.
        """
        with speaking("the study cannot be written"):
            trial_id = self._id(record.number)
            with self._transaction(trial=trial_id):
                rows = self._database.rows(_SOME, {"some": [trial_id]})  # none: it was asked a moment ago
                if rows and rows[0].state != "RUNNING":  # stored before, and the database went away as it said so
                    return bool(json.loads(rows[0].record) == json.loads(json.dumps(record.to_dict())))
                if rows and rows[0].driver is not None and json.loads(rows[0].driver) != myself() and self._presence:
                    return False
                self._database.put(trial_id, "record", record.to_dict())
                if record.state is not TrialState.RUNNING:
                    told = list(values or ()) if record.state is TrialState.COMPLETE else None
                    self._tell(trial_id, _OPTUNA_STATES[record.state], told)
        return True

    def claim(self, number: int) -> bool:
        """Makes a running trial this driver's; False where it is over by now."""
        with speaking("the study cannot be written"):
            trial_id = self._id(number)
            with self._transaction(trial=trial_id):
                if self._database.rows(_SOME, {"some": [trial_id]})[0].state != "RUNNING":
                    return False
                self._database.put(trial_id, "driver", myself())
        return True

    def changes(self, running: Collection[int] = ()) -> list[tuple[TrialRecord, str | None]]:
        """Trials, and whose they are, that are new since the last call, or that are among `running`."""
        with speaking("the study cannot be read"):
            rows = [*self._database.rows(_NEW, {"study": self._study._study_id, "last": self._last})]
            new = {row.trial_id for row in rows}
            if some := [i for n in running if (i := self._id(n)) not in new]:
                rows = [*self._database.rows(_SOME, {"some": some}), *rows]
            self._last = max([self._last, *new])
            self._ids.update((row.number, row.trial_id) for row in rows)
            return [(_parsed(row.record), None if row.driver is None else json.loads(row.driver)) for row in rows]

    def trials(self) -> tuple[TrialRecord, ...]:
        """All trials in the order in which they were asked."""
        with speaking("the study cannot be read"):
            rows = self._database.rows(_NEW, {"study": self._study._study_id, "last": -1})
            return tuple(_parsed(row.record) for row in rows)

    def _new(self, fixed: Mapping[str, Any] | None) -> optuna.Trial:
        """As `Study.ask`, which would read all trials under way to find one that waits: nothing here ever waits."""
        storage, study_id = self._study._storage, self._study._study_id
        self._study._thread_local.cached_all_trials = None  # of the last question, which TPE would learn from
        template = optuna.trial.create_trial(
            state=OptunaState.RUNNING,
            user_attrs={} if self._presence is None else {"driver": myself()},
            system_attrs={} if fixed is None else {"fixed_params": dict(fixed)},
        )
        return optuna.Trial(self._study, storage.create_new_trial(study_id, template))

    def _tell(self, trial_id: int, state: OptunaState, values: list[float] | None) -> None:
        """As `Study.tell`, which would read the trial once more to return it; `values` were made by `nas.pareto`."""
        storage = self._study._storage
        self._study.sampler.after_trial(self._study, storage.get_trial(trial_id), state, values)
        storage.set_trial_state_values(trial_id, state, values)

    def _id(self, number: int) -> int:
        """Optuna's id of a trial."""
        if number not in self._ids:
            storage, study_id = self._study._storage, self._study._study_id
            self._ids[number] = storage.get_trial_id_from_study_id_trial_number(study_id, number)
        return self._ids[number]

    @contextmanager
    def _transaction(self, study: int | None = None, trial: int | None = None) -> Iterator[None]:
        if self._stale and not self._database.in_transaction:
            sampler, name = self._study.sampler, self._study.study_name
            self._study = optuna.load_study(study_name=name, storage=self._database, sampler=sampler)
            self._stale = False
        try:
            with self._database.transaction(study=study, trial=trial):
                yield
        except BaseException:
            self._stale = True  # Optuna's cache may hold what was rolled back
            raise


def _parsed(record: str) -> TrialRecord:
    return TrialRecord.from_dict(json.loads(record))
