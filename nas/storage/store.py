"""The store of a study: its Optuna storage, the only truth about a search.

Only this package and `nas.samplers` import Optuna. Every trial carries its `TrialRecord` as the user attribute
``record``. The study carries its `StudyInfo` as ``info``, every
`Remeasurement` as ``remeasurement:NAME``, every `Retraining` as ``retraining:STEPS:TRIAL:SEED`` and every comparison
network as ``scale:NAME``: it is no trial, so that samplers see nothing of it. Optuna's trial state says
what its samplers may learn from: COMPLETE, with all values, only for trials trained to the last rung; PRUNED for
early-stopped, infeasible and duplicate trials; FAIL for failures. Limits are Optuna's constraints, named as in
`nas.study.limits`, so that `FrozenTrial.constraints` tells infeasible trials from others. optuna-dashboard therefore
opens our studies.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property, lru_cache, partial
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, Self, TypeVar

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from sqlalchemy import Row, text

from nas.command_log import announce
from nas.files import parse_json
from nas.storage.database import Database
from nas.storage.errors import (
    DatabaseUnavailable,
    StoreError,
    StoreFailure,
    retry_while_unavailable,
    sampler_errors,
    translate_errors,
)
from nas.storage.location import STUDY_FILE, StudyLocation, holds_study
from nas.study.config import check_recorded
from nas.study.limits import excesses
from nas.study.records import (
    RaceTraining,
    Record,
    Remeasurement,
    Retraining,
    StudyInfo,
    StudyRecord,
    TrialRecord,
    TrialState,
)
from nas.study.space_protocol import ExpectingSampler, Proposal
from search_space import SpecError
from search_space.checks import shown
from search_space.timm_spec import network_spec_from_json

__all__ = ["STUDY_FILE", "Store", "StoreError", "read_study", "trial_records"]

_OPTUNA_STATES = {
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.STOPPED: OptunaState.PRUNED,
    TrialState.INFEASIBLE: OptunaState.PRUNED,
    TrialState.DUPLICATE: OptunaState.FAIL,  # TPE would learn a pruned trial as a bad one
    TrialState.FAILED: OptunaState.FAIL,
}
_TRIALS = text(
    "SELECT t.trial_id, t.number, r.value_json AS record FROM trials t"
    " JOIN trial_user_attributes r ON r.trial_id = t.trial_id AND r.key = 'record'"
    " WHERE t.study_id = :study AND t.trial_id > :last ORDER BY t.trial_id"
)
_STATE = text("SELECT state FROM trials WHERE trial_id = :id")
_REMEASUREMENT = "remeasurement:"
_RETRAINING = "retraining:"
_RACE = "race:"
_SCALE = "scale:"
optuna.logging.set_verbosity(optuna.logging.ERROR)
_LOG = logging.getLogger(__name__)
Result = TypeVar("Result")
RecordType = TypeVar("RecordType", bound=Record)


class Store:
    """Reads and writes one study. Every process opens and closes its own.

    Args:
        location: Where the study is stored.
        database: The open database.
        study: The study in it.

    Attributes:
        notify: Called with a line when the database becomes unavailable, and when it is available again.
        patient: Whether `retry_while_unavailable` waits for the database.
    """

    def __init__(self, location: StudyLocation, database: Database, study: optuna.Study) -> None:
        self.notify: Callable[[str], None] = partial(announce, log=_LOG)
        self.patient = True
        self._location = location
        self._database = database
        self._study = study
        self._ids: dict[int, int] = {}  # trial number -> Optuna's id
        self._last_id = -1  # highest id that `new_trials` has returned
        self._stale = False  # whether Optuna's cache may hold rolled-back trials

    @classmethod
    def create(cls, run_dir: Path, info: StudyInfo, sampler: BaseSampler, database: str | None = None) -> Store:
        """Create a study in `run_dir`/study.db or in the database of a URL; StoreError if there is one already."""
        location = StudyLocation.new(run_dir, database)
        _check_free(location)
        target = run_dir if location.url is None else location
        with ExitStack() as stack, translate_errors(f"cannot write a study in {str(target)!r}"):
            location.write()
            opened = stack.enter_context(Database(location))
            directions = [StudyDirection.MAXIMIZE] * len(info.objectives)
            with opened.transaction():
                study = optuna.create_study(
                    study_name=location.study or info.name, storage=opened, sampler=sampler, directions=directions
                )
                with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
                    study.set_metric_names([objective.name for objective in info.objectives])
                store = cls(location, opened, study)
                store.save_info(info)
            stack.pop_all()
            return store

    @classmethod
    def check_free(cls, run_dir: Path, database: str | None = None) -> None:
        """Raise StoreError if `create` would find a study, or no database."""
        _check_free(StudyLocation.new(run_dir, database))

    @classmethod
    def open(
        cls,
        run_dir: Path,
        sampler: BaseSampler | None = None,
        database: str | None = None,
        *,
        read_only: bool = False,
    ) -> Store:
        """Open the study of a run folder.

        Args:
            run_dir: Run folder.
            sampler: Sampler of the next trials; None for none.
            database: URL of the study's database, which may have a password; None for the one that the folder names.
            read_only: Whether nothing will be written, so that the folder may be on a read-only or a full disk.

        Raises:
            StoreError: There is no study, or it cannot be read.
        """
        location = StudyLocation.of(run_dir, database)
        failure = f"{location} is not a readable study" if location.url is None else f"{location} cannot be read"
        if location.url is None and not (read_only or os.access(run_dir, os.W_OK)):
            raise StoreFailure(f"{run_dir} cannot be written; a command that only reads the study can read it")
        with ExitStack() as stack, translate_errors(failure):
            opened = stack.enter_context(Database(location, read_only=read_only))
            names = optuna.get_all_study_names(opened)
            if location.url is None and len(names) != 1:
                raise StoreError(f"{location} holds {len(names)} studies, expected one")
            name = location.study or names[0]
            if name not in names:
                raise StoreError(f"{location} holds no study {name!r}")
            store = cls(location, opened, optuna.load_study(study_name=name, storage=opened, sampler=sampler))
            stack.pop_all()
            return store

    def close(self) -> None:
        """Close every connection to the database."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def info(self) -> StudyInfo:
        """Return the study's description; StoreError if another program has written the study."""
        with translate_errors(f"study {self._study.study_name!r} cannot be read"):
            attributes = self._study.user_attrs
            if "info" not in attributes:
                raise StoreError(f"study {self._study.study_name!r} was not written by a search (it has no 'info')")
            return self._record(StudyInfo, "info", attributes["info"])

    def save_info(self, info: StudyInfo) -> None:
        """Write the study's description."""
        with translate_errors("the study cannot be written"):
            self._study.set_user_attr("info", info.to_dict())

    def update_info(self, change: Callable[[StudyInfo], StudyInfo]) -> StudyInfo:
        """Replace the study's description by `change` of it in one transaction, and return the new one."""
        with self.transaction():
            info = change(self.info)
            self.save_info(info)
        return info

    def read(self) -> StudyRecord:
        """Read the whole study as plain records."""
        return StudyRecord(self.info, self.trials(), self.scale(), self.race_trainings())

    def trials(self) -> tuple[TrialRecord, ...]:
        """Read all trials, in the order of their numbers."""
        with translate_errors("the study cannot be read"):
            rows = self._database.rows(_TRIALS, {"study": self._study._study_id, "last": -1})
            return tuple(map(self._trial, rows))

    def scale(self) -> tuple[TrialRecord, ...]:
        """Read the comparison networks that have been measured, in the order of the study's settings."""
        with translate_errors("the study cannot be read"):
            return tuple(sorted(self._records(TrialRecord, _SCALE), key=lambda record: -record.number))

    def save_scale(self, record: TrialRecord) -> None:
        """Write a comparison network that has been measured, as JSON text."""
        with translate_errors("the study cannot be written"):
            self._study.set_user_attr(f"{_SCALE}{record.scale}", json.dumps(record.to_dict()))

    def remeasurements(self) -> tuple[Remeasurement, ...]:
        """Read all remeasurements, oldest first."""
        with translate_errors("the study's remeasurements cannot be read"):
            return tuple(sorted(self._records(Remeasurement, _REMEASUREMENT), key=lambda r: r.created))

    def save_remeasurement(self, remeasurement: Remeasurement) -> None:
        """Write a remeasurement in place of an earlier one of this name."""
        self._save_result(_REMEASUREMENT + remeasurement.name, remeasurement)

    def retrainings(self) -> tuple[Retraining, ...]:
        """Read all retrainings, failed ones included, by steps, trial and seed."""
        with translate_errors("the study's retrainings cannot be read"):
            return tuple(sorted(self._records(Retraining, _RETRAINING), key=lambda r: (r.steps, r.number, r.seed)))

    def save_retraining(self, retraining: Retraining) -> None:
        """Write a retraining in place of an earlier one of the same trial, seed and steps."""
        self._save_result(f"{_RETRAINING}{retraining.steps}:{retraining.number}:{retraining.seed}", retraining)

    def race_trainings(self) -> tuple[RaceTraining, ...]:
        """Read the trainings of all races, also unfinished and failed ones."""
        with translate_errors("the study's races cannot be read"):
            return tuple(self._records(RaceTraining, _RACE))

    def save_race_training(self, training: RaceTraining) -> None:
        """Write a training of a race in place of the earlier record of the same training."""
        key = f"{_RACE}{training.steps}:{training.images}:{training.number}:{training.seed}"
        self._save_result(key, training)

    def _save_result(self, key: str, record: Record) -> None:
        """Write what a command has found after minutes or hours, in which the database may have been restarted.

        As JSON text: Optuna decodes and copies every attribute of a study, even if only `info` is read.
        """

        def write() -> None:
            with translate_errors("the study cannot be written"):
                self._study.set_user_attr(key, json.dumps(record.to_dict()))

        lost = "nothing stored is lost; run the same command again to continue"
        retry_while_unavailable(write, self.notify, lost)

    def read_all(self) -> tuple[StudyRecord, tuple[Retraining, ...], tuple[Remeasurement, ...]]:
        """Read the study with its retrainings and remeasurements, the arguments of `gather_evidence`."""
        return self.read(), self.retrainings(), self.remeasurements()

    def retry_while_unavailable(self, work: Callable[[], Result]) -> Result:
        """Return `work()`, and repeat the call while the database is unavailable; it may change only the store.

        Raises:
            StoreError: The database was unavailable for too long, or is unavailable and this store is not `patient`.
        """
        if not self.patient:
            with suppress(DatabaseUnavailable):  # once: it may be a connection to a server that was started again
                return work()
            return work()
        advice = f"nothing stored is lost; continue with --resume {self._location.run_dir}"
        return retry_while_unavailable(work, self.notify, advice)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Exclude other writers; all writes of the body take effect at its end, or none."""
        with translate_errors("the study cannot be written"):
            if self._stale and not self._database.in_transaction:
                sampler, name = self._study.sampler, self._study.study_name
                self._study = optuna.load_study(study_name=name, storage=self._database, sampler=sampler)
                self._stale = False
            try:
                with self._database.transaction(self._study._study_id):
                    yield
            except BaseException:
                self._stale = True
                raise

    def ask(self, choices: Mapping[str, Sequence[Any]], fixed: Mapping[str, Any] | None = None) -> Proposal:
        """Create a trial with its parameters from the sampler, or `fixed`.

        Raises:
            SamplerError: The sampler failed.
            StoreError: The study cannot be written.
        """
        with self.transaction(), sampler_errors(sampler := self._study.sampler):
            trial = self._new_trial(fixed)
            self._ids[trial.number] = trial._trial_id
            params = {name: trial.suggest_categorical(name, tuple(values)) for name, values in choices.items()}
            if fixed is None and isinstance(sampler, ExpectingSampler):
                return Proposal(trial.number, params, sampler.expected(trial.number))
            return Proposal(trial.number, params)

    def save(self, record: TrialRecord, values: Sequence[float] | None = None) -> None:
        """Write a trial's record and, if the trial has ended, its state for Optuna.

        Args:
            record: The trial.
            values: Its objectives, if it is COMPLETE; ignored otherwise.
        """
        with self.transaction():
            trial_id = self._id(record.number)
            if self._database.rows(_STATE, {"id": trial_id})[0].state != "RUNNING":
                return  # stored by an earlier call that got no answer
            self._database.set_trial_attribute(trial_id, "record", record.to_dict())
            if record.state is not TrialState.RUNNING:
                self._save_constraints(trial_id, record)
                objectives = list(values or ()) if record.state is TrialState.COMPLETE else None
                self._tell(trial_id, _OPTUNA_STATES[record.state], objectives)

    def new_trials(self) -> list[TrialRecord]:
        """Read the trials that are new since the last call."""
        with translate_errors("the study cannot be read"):
            rows = self._database.rows(_TRIALS, {"study": self._study._study_id, "last": self._last_id})
            self._last_id = max([self._last_id, *(row.trial_id for row in rows)])
            self._ids.update((row.number, row.trial_id) for row in rows)
            return [self._trial(row) for row in rows]

    def _trial(self, row: Row[Any]) -> TrialRecord:
        """Return the record of a row of `_TRIALS`."""
        record = self._record(TrialRecord, f"record of trial {row.number}", row.record)
        if record.number != row.number:
            raise StoreError(f"{self._location}: record of trial {row.number}: number: {record.number}: is another one")
        return record

    def _records(self, kind: type[RecordType], prefix: str) -> Iterator[RecordType]:
        """Yield the records in the study's attributes whose keys have a prefix."""
        for key, value in self._study.user_attrs.items():
            if key.startswith(prefix):
                yield self._record(kind, key, value)

    def _record(self, kind: type[RecordType], row: str, value: Any) -> RecordType:
        """Return a record by its JSON, as text or parsed; StoreError, which names the row, where it is none."""
        try:
            record = kind.from_dict(parse_json(value) if isinstance(value, str | bytes) else value)
            _check_contents(record, self._replayed)
            if isinstance(record, TrialRecord) and not self._database.read_only:
                _check_arch_id(record.arch_id)
            return record
        except ValueError as error:
            raise StoreError(f"{self._location}: {row}: {error}") from error

    def _new_trial(self, fixed: Mapping[str, Any] | None) -> optuna.Trial:
        """Create a trial as `Study.ask` does, which would also read all running trials to find a waiting one."""
        storage, study_id = self._study._storage, self._study._study_id
        self._study._thread_local.cached_all_trials = None  # of the last proposal, which TPE would learn from
        template = optuna.trial.create_trial(
            state=OptunaState.RUNNING, system_attrs={} if fixed is None else {"fixed_params": dict(fixed)}
        )
        return optuna.Trial(self._study, storage.create_new_trial(study_id, template))

    def _save_constraints(self, trial_id: int, record: TrialRecord) -> None:
        """Write what a trial's limits say as Optuna's constraints, of which none is positive where it is feasible."""
        if record.params is None and record.macs is None and record.measurement is None:
            return
        trial = optuna.Trial(self._study, trial_id)
        for name, excess in excesses(record, self._limits).items():
            trial.set_constraint(name, excess)

    @cached_property
    def _limits(self) -> Mapping[str, float]:
        """Return the study's limits, which never change."""
        return self.info.limits

    @cached_property
    def _replayed(self) -> bool:
        """Return whether the study replays published results, see `nas.replay`."""
        info = self._study.user_attrs.get("info")
        return isinstance(info, Mapping) and "replayed" in (info.get("environment") or ())

    def _tell(self, trial_id: int, state: OptunaState, values: list[float] | None) -> None:
        """End a trial as `Study.tell` does, which would also read it again and check `values`."""
        storage, sampler = self._study._storage, self._study.sampler
        trial = storage.get_trial(trial_id)
        if not trial.params:  # a baseline outside the space: after it, Optuna would sample no choices jointly
            state, values = OptunaState.FAIL, None
        with sampler_errors(sampler):
            sampler.after_trial(self._study, trial, state, values)
        storage.set_trial_state_values(trial_id, state, values)

    def _id(self, number: int) -> int:
        """Return Optuna's id of a trial."""
        if number not in self._ids:
            storage, study_id = self._study._storage, self._study._study_id
            self._ids[number] = storage.get_trial_id_from_study_id_trial_number(study_id, number)
        return self._ids[number]


def read_study(run_dir: Path) -> StudyRecord:
    """Read the study in `run_dir`, for reports; StoreError if it cannot be read."""
    with Store.open(run_dir, read_only=True) as store:
        return store.read()


def _check_contents(record: Record, replayed: bool) -> None:
    """Raise ValueError, which names the field, for an architecture or settings that a search cannot have written.

    The architectures of a replayed study are of its benchmark.
    """
    if isinstance(record, TrialRecord) and record.spec and not replayed:
        _check_spec(json.dumps(record.spec), "spec")
    if isinstance(record, StudyInfo):
        check_recorded(record.config)
        for name, spec in (record.config.get("specs") or {}).items():
            _check_spec(json.dumps(spec), f"config: specs: {name}")


def _check_arch_id(arch_id: str) -> None:
    """Raise ValueError for an id that leads out of a folder: searches and trainings name files by it.

    They write these files, and delete the checkpoints of trials that have ended.
    """
    path = PurePath(arch_id)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"arch_id: {shown(arch_id)}: must be a name without folders")


@lru_cache(maxsize=10_000)
def _check_spec(spec: str, field: str) -> None:
    try:
        network_spec_from_json(spec)
    except SpecError as error:
        raise ValueError(f"{field}: {error}") from None


def trial_records(trials: Sequence[FrozenTrial]) -> tuple[TrialRecord, ...]:
    """Return the records of Optuna trials, without trials that have no record yet.

    Optuna caches ended trials as the same objects, and their records are parsed once.
    """
    return tuple(_record_of(t) for t in trials if "record" in t.user_attrs)


_parsed: dict[int, tuple[FrozenTrial, TrialRecord]] = {}  # by number, of one study at a time


def _record_of(trial: FrozenTrial) -> TrialRecord:
    cached = _parsed.get(trial.number)
    if cached is None or cached[0] is not trial:
        _parsed[trial.number] = cached = (trial, TrialRecord.from_dict(trial.user_attrs["record"]))
    return cached[1]


def _check_free(location: StudyLocation) -> None:
    """Raise StoreError if there is a study; tables or a folder that a killed `create` left are none."""
    if location.url is None and not (location.run_dir / STUDY_FILE).exists():
        return
    with translate_errors(f"{location} cannot be used"), Database(location) as database:
        names = optuna.get_all_study_names(database)
    if location.study in names or (location.url is None and names):
        name = f" {location.study!r}" * bool(location.study)
        advice = location.advice
        if not holds_study(location.run_dir):
            advice = "another run folder of this name has it, or had it; choose a --run with another name"
        raise StoreError(f"{location} already holds a study{name}; {advice}")
