"""The study in its Optuna storage, the only truth about a search.

Only this package and `nas.samplers` import Optuna. Every trial carries its `TrialRecord` as the user attribute
``record`` and the name of the driver that runs it as ``driver``. The study carries its `StudyInfo` as ``info``, every
`Remeasurement` as ``remeasurement:NAME`` and every `Retraining` as ``retraining:STEPS:TRIAL:SEED``. Optuna's own trial
state says what its samplers may learn from: COMPLETE, with all values, only for trials trained to the last rung; PRUNED
for early-stopped, infeasible and duplicate trials; FAIL for failures. optuna-dashboard therefore opens our studies.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from sqlalchemy import bindparam, text

from nas.storage.database import Database
from nas.storage.errors import StoreError, retry_while_unavailable, translate_errors
from nas.storage.liveness import DriverLiveness, FileLocks, ServerLocks, this_driver
from nas.storage.location import STUDY_FILE, StudyLocation
from nas.study.records import Remeasurement, Retraining, Study, StudyInfo, TrialRecord, TrialState

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
    """The part of `nas.storage.store.Store` that a driver works with.

    Args:
        place: where the study lies.
        notify: called with a line when the database is away, and when it is back.
    """

    def __init__(
        self,
        place: StudyLocation,
        database: Database,
        study: optuna.Study,
        notify: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.place = place
        self.notify = notify
        self._database = database
        self._study = study
        self._liveness: DriverLiveness | None = None
        self._ids: dict[int, int] = {}  # number -> Optuna's id
        self._last = -1  # highest id that `changes` has told
        self._stale = False  # Optuna's cache may hold what was rolled back

    @property
    def driver(self) -> str:
        """A name for this process, among those that work on the study."""
        return this_driver().rpartition(":")[2]

    def register_driver(self) -> None:
        """From here on other drivers know that this one is alive, and whose trials are whose."""
        with translate_errors("the study cannot be joined"):
            if self._liveness is None:
                database = self._database
                self._liveness = FileLocks(self.place.run_dir) if database.is_file else ServerLocks(database.engine)

    def unregister_driver(self) -> None:
        """What this driver left running may be taken over."""
        if self._liveness is not None:
            self._liveness.release()
            self._liveness = None

    def may_take_over(self, driver: str | None) -> bool:
        """Whether the running trials of `driver` are anybody's: it is dead, or this very process, or of before."""
        if driver is None or driver == this_driver() or self._liveness is None:
            return True
        with translate_errors("the study cannot be read"):
            return self._liveness.is_dead(driver)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """No other driver is in here at the same time; all that the body writes is written at its end, or nothing."""
        with translate_errors("the study cannot be written"), self._transaction(study=self._study._study_id):
            yield

    def ask(
        self, choices: Mapping[str, Sequence[Any]], fixed: Mapping[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """The number and parameters of a new trial from the sampler, or with the parameters `fixed`."""
        with translate_errors("the study cannot be written"), self._transaction(study=self._study._study_id):
            trial = self._new(fixed)
            self._ids[trial.number] = trial._trial_id
            return trial.number, {n: trial.suggest_categorical(n, tuple(values)) for n, values in choices.items()}

    def save(self, record: TrialRecord, values: Sequence[float] | None = None) -> bool:
        """Writes a trial's record and, once it is no longer running, tells Optuna its state.

        `values` are the objectives of a COMPLETE trial and ignored for any other. False, and nothing is written, where
        another driver has taken the trial over.
        """
        with translate_errors("the study cannot be written"):
            trial_id = self._id(record.number)
            with self._transaction(trial=trial_id):
                rows = self._database.rows(_SOME, {"some": [trial_id]})  # none: it was asked a moment ago
                if rows and rows[0].state != "RUNNING":  # stored before, and the database went away as it said so
                    return bool(json.loads(rows[0].record) == json.loads(json.dumps(record.to_dict())))
                if (
                    rows
                    and rows[0].driver is not None
                    and json.loads(rows[0].driver) != this_driver()
                    and self._liveness
                ):
                    return False
                self._database.put(trial_id, "record", record.to_dict())
                if record.state is not TrialState.RUNNING:
                    told = list(values or ()) if record.state is TrialState.COMPLETE else None
                    self._tell(trial_id, _OPTUNA_STATES[record.state], told)
        return True

    def claim(self, number: int) -> bool:
        """Makes a running trial this driver's; False where it is over by now."""
        with translate_errors("the study cannot be written"):
            trial_id = self._id(number)
            with self._transaction(trial=trial_id):
                if self._database.rows(_SOME, {"some": [trial_id]})[0].state != "RUNNING":
                    return False
                self._database.put(trial_id, "driver", this_driver())
        return True

    def changes(self, running: Collection[int] = ()) -> list[tuple[TrialRecord, str | None]]:
        """Trials, and whose they are, that are new since the last call, or that are among `running`."""
        with translate_errors("the study cannot be read"):
            rows = [*self._database.rows(_NEW, {"study": self._study._study_id, "last": self._last})]
            new = {row.trial_id for row in rows}
            if some := [i for n in running if (i := self._id(n)) not in new]:
                rows = [*self._database.rows(_SOME, {"some": some}), *rows]
            self._last = max([self._last, *new])
            self._ids.update((row.number, row.trial_id) for row in rows)
            return [(_parsed(row.record), None if row.driver is None else json.loads(row.driver)) for row in rows]

    def trials(self) -> tuple[TrialRecord, ...]:
        """All trials in the order in which they were asked."""
        with translate_errors("the study cannot be read"):
            rows = self._database.rows(_NEW, {"study": self._study._study_id, "last": -1})
            return tuple(_parsed(row.record) for row in rows)

    def _new(self, fixed: Mapping[str, Any] | None) -> optuna.Trial:
        """As `Study.ask`, which would read all trials under way to find one that waits: nothing here ever waits."""
        storage, study_id = self._study._storage, self._study._study_id
        self._study._thread_local.cached_all_trials = None  # of the last question, which TPE would learn from
        template = optuna.trial.create_trial(
            state=OptunaState.RUNNING,
            user_attrs={} if self._liveness is None else {"driver": this_driver()},
            system_attrs={} if fixed is None else {"fixed_params": dict(fixed)},
        )
        return optuna.Trial(self._study, storage.create_new_trial(study_id, template))

    def _tell(self, trial_id: int, state: OptunaState, values: list[float] | None) -> None:
        """As `Study.tell`, which would read the trial again; `values` come from `nas.study.pareto`."""
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


__all__ = ["STUDY_FILE", "Store", "StoreError", "read_study", "records"]

_REMEASUREMENT = "remeasurement:"
_RETRAINING = "retraining:"
optuna.logging.set_verbosity(optuna.logging.ERROR)
Result = TypeVar("Result")


class Store(Trials):
    """Reads and writes one study. Not shared between processes: each driver opens its own, and closes it."""

    def close(self) -> None:
        """Leave the study and close every connection to its database."""
        self.unregister_driver()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @classmethod
    def create(cls, run_dir: Path, info: StudyInfo, sampler: BaseSampler, database: str | None = None) -> Store:
        """A new study in `run_dir`/study.db or `database`; StoreError where there is one already."""
        place = StudyLocation.new(run_dir, database)
        _check_room(place)
        with (
            ExitStack() as stack,
            translate_errors(f"cannot write a study in {str(run_dir if place.url is None else place)!r}"),
        ):
            place.write()
            opened = stack.enter_context(Database(place))
            directions = [StudyDirection.MAXIMIZE] * len(info.objectives)
            with opened.transaction():
                study = optuna.create_study(
                    study_name=place.study or info.name, storage=opened, sampler=sampler, directions=directions
                )
                with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
                    study.set_metric_names([objective.name for objective in info.objectives])
                store = cls(place, opened, study)
                store.save_info(info)
            stack.pop_all()
            return store

    @classmethod
    def find_room(cls, run_dir: Path, database: str | None = None) -> None:
        """StoreError where `create` would find a study, or no database."""
        _check_room(StudyLocation.new(run_dir, database))

    @classmethod
    def open(cls, run_dir: Path, sampler: BaseSampler | None = None, database: str | None = None) -> Store:
        """The study of `run_dir`; StoreError where there is none or it cannot be read."""
        place = StudyLocation.of(run_dir, database)
        failed = f"{place} is not a readable study" if place.url is None else f"{place} cannot be read"
        with ExitStack() as stack, translate_errors(failed):
            opened = stack.enter_context(Database(place))
            names = optuna.get_all_study_names(opened)
            if place.url is None and len(names) != 1:
                raise StoreError(f"{place} holds {len(names)} studies, expected one")
            name = place.study or names[0]
            if name not in names:
                raise StoreError(f"{place} holds no study {name!r}")
            store = cls(place, opened, optuna.load_study(study_name=name, storage=opened, sampler=sampler))
            stack.pop_all()
            return store

    @property
    def info(self) -> StudyInfo:
        """What the study is about; StoreError where it was not written by this project."""
        with translate_errors(f"study {self._study.study_name!r} cannot be read"):
            attributes = self._study.user_attrs
            if "info" not in attributes:
                raise StoreError(f"study {self._study.study_name!r} was not written by nas.search (it has no 'info')")
            return StudyInfo.from_dict(attributes["info"])

    def save_info(self, info: StudyInfo) -> None:
        """Writes the study's description."""
        with translate_errors("the study cannot be written"):
            self._study.set_user_attr("info", info.to_dict())

    def update_info(self, change: Callable[[StudyInfo], StudyInfo]) -> StudyInfo:
        """Writes what `change` makes of the study's description, whoever else writes it."""
        with self.exclusive():
            info = change(self.info)
            self.save_info(info)
        return info

    def retry_while_unavailable(self, work: Callable[[], Result]) -> Result:
        """`work()`, again and again while the database is away; it has to change nothing but the store.

        Raises:
            StoreError: the database was away for too long.
        """
        return retry_while_unavailable(
            work, self.notify, f"nothing stored is lost; go on with --resume {self.place.run_dir}"
        )

    def remeasurements(self) -> tuple[Remeasurement, ...]:
        """Return what was measured again, oldest first."""
        with translate_errors("the study's remeasurements cannot be read"):
            texts = [text for key, text in self._study.user_attrs.items() if key.startswith(_REMEASUREMENT)]
            found = (Remeasurement.from_dict(json.loads(text)) for text in texts)
            return tuple(sorted(found, key=lambda r: r.created))

    def save_remeasurement(self, remeasurement: Remeasurement) -> None:
        """Write a remeasurement in the place of an earlier one of this name.

        As JSON text: Optuna decodes and copies every attribute of a study, also when only `info` is asked for.
        """
        with translate_errors("the study cannot be written"):
            self._study.set_user_attr(_REMEASUREMENT + remeasurement.name, json.dumps(remeasurement.to_dict()))

    def retrainings(self) -> tuple[Retraining, ...]:
        """Return what was trained again, by steps, trial and seed; failures too."""
        with translate_errors("the study's retrainings cannot be read"):
            texts = [text for key, text in self._study.user_attrs.items() if key.startswith(_RETRAINING)]
            found = (Retraining.from_dict(json.loads(text)) for text in texts)
            return tuple(sorted(found, key=lambda r: (r.steps, r.number, r.seed)))

    def save_retraining(self, retraining: Retraining) -> None:
        """Write a retraining, as JSON text, in the place of an earlier one of the same trial, seed and steps."""
        with translate_errors("the study cannot be written"):
            key = f"{_RETRAINING}{retraining.steps}:{retraining.number}:{retraining.seed}"
            self._study.set_user_attr(key, json.dumps(retraining.to_dict()))

    def read(self) -> Study:
        """The whole study as plain records."""
        return Study(self.info, self.trials())


def _check_room(place: StudyLocation) -> None:
    """StoreError where a study is; what a kill left of the beginning of one is none."""
    if place.url is None and not (place.run_dir / STUDY_FILE).exists():
        return
    with translate_errors(f"{place} cannot be used"), Database(place) as database:
        names = optuna.get_all_study_names(database)
    if place.study in names or (place.url is None and names):
        raise StoreError(f"{place} already holds a study{f' {place.study!r}' * bool(place.study)}; {place.ways_out}")


def records(trials: Sequence[FrozenTrial]) -> tuple[TrialRecord, ...]:
    """The records that these Optuna trials carry; trials that were asked and not yet described are left out.

    Optuna keeps the trials that are over as the same objects, and their records are read once.
    """
    return tuple(_record_of(t) for t in trials if "record" in t.user_attrs)


_known: dict[int, tuple[FrozenTrial, TrialRecord]] = {}  # by number, of the study last asked for


def _record_of(trial: FrozenTrial) -> TrialRecord:
    known = _known.get(trial.number)
    if known is None or known[0] is not trial:
        _known[trial.number] = known = (trial, TrialRecord.from_dict(trial.user_attrs["record"]))
    return known[1]


def read_study(run_dir: Path) -> Study:
    """The study in `run_dir`, for reports; StoreError where it cannot be read."""
    with Store.open(run_dir) as store:
        return store.read()
