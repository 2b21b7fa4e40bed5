"""The study in its Optuna storage: the only truth about a search.

Beside `nas.samplers` and what lies below it in `nas.storage`, the one module that names optuna. Every trial carries its
whole `TrialRecord` as the user attribute ``record`` and the driver that runs it as ``driver``; the study carries its
`StudyInfo` as ``info``, and what was measured again elsewhere as ``rerank:NAME``. Optuna's own trial state says what
its samplers may learn from: COMPLETE with both values only for trials trained to the last rung, PRUNED for trials that
were stopped, infeasible or asked twice, FAIL for failures. So optuna-dashboard opens our studies as they are.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from sqlalchemy import bindparam, text

from nas.records import Rerank, Study, StudyInfo, TrialRecord, TrialState
from nas.storage.database import Database
from nas.storage.errors import StoreError, patiently, speaking
from nas.storage.place import STUDY_FILE, Place
from nas.storage.presence import FileLocks, Presence, ServerLocks, myself

__all__ = ["STUDY_FILE", "Store", "StoreError", "read_study", "records"]

_RERANK = "rerank:"
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

optuna.logging.set_verbosity(optuna.logging.ERROR)
Result = TypeVar("Result")


class Store:
    """Reads and writes one study. Not shared between processes: each driver opens its own.

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

    @classmethod
    def create(cls, run_dir: Path, info: StudyInfo, sampler: BaseSampler, database: str | None = None) -> Store:
        """A new study in `run_dir`/study.db or `database`; StoreError where there is one already."""
        place = Place.new(run_dir, database)
        with speaking(f"cannot write a study in {str(place.run_dir if place.url is None else place)!r}"):
            place.write()
            opened = Database(place)
            directions = [StudyDirection.MAXIMIZE] * len(info.objectives)
            with opened.transaction():
                try:
                    study = optuna.create_study(
                        study_name=place.study or info.name, storage=opened, sampler=sampler, directions=directions
                    )
                except DuplicatedStudyError:
                    raise StoreError(f"{place} already holds a study {place.study!r}; choose another --run") from None
                with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
                    study.set_metric_names([objective.name for objective in info.objectives])
                store = cls(place, opened, study)
                store.save_info(info)
            return store

    @classmethod
    def find_room(cls, run_dir: Path, database: str | None = None) -> None:
        """StoreError where `create` would find a study, or no database."""
        place = Place.new(run_dir, database)
        if place.url is not None:
            with speaking(f"{place} cannot be used"):
                if place.study in optuna.get_all_study_names(Database(place)):
                    raise StoreError(f"{place} already holds a study {place.study!r}; choose another --run")

    @classmethod
    def open(cls, run_dir: Path, sampler: BaseSampler | None = None, database: str | None = None) -> Store:
        """The study of `run_dir`; StoreError where there is none or it cannot be read."""
        place = Place.of(run_dir, database)
        with speaking(f"{place} is not a readable study" if place.url is None else f"{place} cannot be read"):
            opened = Database(place)
            names = optuna.get_all_study_names(opened)
            if place.url is None and len(names) != 1:
                raise StoreError(f"{place} holds {len(names)} studies, expected one")
            name = place.study or names[0]
            if name not in names:
                raise StoreError(f"{place} holds no study {name!r}")
            return cls(place, opened, optuna.load_study(study_name=name, storage=opened, sampler=sampler))

    @property
    def info(self) -> StudyInfo:
        """What the study is about; StoreError where it was not written by this project."""
        with speaking(f"study {self._study.study_name!r} cannot be read"):
            attributes = self._study.user_attrs
            if "info" not in attributes:
                raise StoreError(f"study {self._study.study_name!r} was not written by nas.search (it has no 'info')")
            return StudyInfo.from_dict(attributes["info"])

    def save_info(self, info: StudyInfo) -> None:
        """Writes the study's description."""
        with speaking("the study cannot be written"):
            self._study.set_user_attr("info", info.to_dict())

    def update_info(self, change: Callable[[StudyInfo], StudyInfo]) -> StudyInfo:
        """Writes what `change` makes of the study's description, whoever else writes it."""
        with self.alone():
            info = change(self.info)
            self.save_info(info)
        return info

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

    def patiently(self, work: Callable[[], Result]) -> Result:
        """`work()`, again and again while the database is away; it has to change nothing but the store.

        Raises:
            StoreError: the database was away for too long.
        """
        return patiently(work, self.say, f"nothing stored is lost; go on with --resume {self.place.run_dir}")

    def ask(
        self, choices: Mapping[str, Sequence[Any]], fixed: Mapping[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """The number and parameters of a new trial from the sampler, or with the parameters `fixed`."""
        with speaking("the study cannot be written"), self._transaction(study=self._study._study_id):
            if fixed is not None:
                self._study.enqueue_trial(dict(fixed))
            trial = self._study.ask()
            self._ids[trial.number] = trial._trial_id
            if self._presence is not None:
                self._database.put(trial._trial_id, "driver", myself())
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
                    self._study.tell(record.number, told, state=_OPTUNA_STATES[record.state])
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

    def reranks(self) -> tuple[Rerank, ...]:
        """What was measured again elsewhere, oldest first."""
        with speaking("the study's reranks cannot be read"):
            texts = [text for key, text in self._study.user_attrs.items() if key.startswith(_RERANK)]
            return tuple(sorted((Rerank.from_dict(json.loads(text)) for text in texts), key=lambda r: r.created))

    def save_rerank(self, rerank: Rerank) -> None:
        """Writes what was measured again, in the place of an earlier one of this name.

        As JSON text: Optuna decodes and copies every attribute of a study, also when only `info` is asked for.
        """
        with speaking("the study cannot be written"):
            self._study.set_user_attr(_RERANK + rerank.name, json.dumps(rerank.to_dict()))

    def read(self) -> Study:
        """The whole study as plain records."""
        return Study(self.info, self.trials())

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
    return Store.open(run_dir).read()


def _parsed(record: str) -> TrialRecord:
    return TrialRecord.from_dict(json.loads(record))
