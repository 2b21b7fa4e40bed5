"""The study in its Optuna storage: the only truth about a search.

Beside `nas.samplers` the one module that names optuna. Every trial carries its whole `TrialRecord` as the user
attribute ``record``; the study carries its `StudyInfo` as ``info``, and what was measured again elsewhere as
``rerank:NAME``, what was trained again as ``final:STEPS:TRIAL:SEED``. Optuna's own trial state says what its samplers
may learn from: COMPLETE with both values only for trials trained to the last rung, PRUNED for trials that were stopped,
infeasible or asked twice, FAIL for failures. So optuna-dashboard opens our studies as they are.
"""

from __future__ import annotations

import json
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState as OptunaState
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from nas.records import Finalist, Rerank, Study, StudyInfo, TrialRecord, TrialState

STUDY_FILE = "study.db"
_RERANK = "rerank:"
_FINAL = "final:"
_OPTUNA_STATES = {
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.STOPPED: OptunaState.PRUNED,
    TrialState.INFEASIBLE: OptunaState.PRUNED,
    TrialState.DUPLICATE: OptunaState.PRUNED,
    TrialState.FAILED: OptunaState.FAIL,
}

optuna.logging.set_verbosity(optuna.logging.ERROR)


class StoreError(ValueError):
    """A study that is missing, unreadable or cannot be written; the message is one line for people."""


class Store:
    """Reads and writes one study. Not shared between processes: each driver opens its own."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    @classmethod
    def create(cls, run_dir: Path, info: StudyInfo, sampler: BaseSampler) -> Store:
        """A new study in `run_dir`/study.db; StoreError where there is one already."""
        if (run_dir / STUDY_FILE).exists():
            raise StoreError(f"{run_dir} already holds a study; go on with --resume {run_dir}, or choose another --run")
        with _speaking(f"cannot write a study in {str(run_dir)!r}"):
            run_dir.mkdir(parents=True, exist_ok=True)
            directions = [StudyDirection.MAXIMIZE] * len(info.objectives)
            study = optuna.create_study(
                study_name=info.name, storage=_storage(run_dir), sampler=sampler, directions=directions
            )
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            study.set_metric_names([objective.name for objective in info.objectives])
        store = cls(study)
        store.save_info(info)
        return store

    @classmethod
    def open(cls, run_dir: Path, sampler: BaseSampler | None = None) -> Store:
        """The study that lies in `run_dir`; StoreError where none does or it cannot be read."""
        if not run_dir.is_dir():
            raise StoreError(f"no such run folder: {str(run_dir)!r}")
        if not (run_dir / STUDY_FILE).is_file():
            raise StoreError(f"{str(run_dir)!r} holds no study ({STUDY_FILE} is missing)")
        with _speaking(f"{run_dir / STUDY_FILE} is not a readable study"):
            storage = _storage(run_dir)
            names = optuna.get_all_study_names(storage)
            if len(names) != 1:
                raise StoreError(f"{run_dir / STUDY_FILE} holds {len(names)} studies, expected one")
            return cls(optuna.load_study(study_name=names[0], storage=storage, sampler=sampler))

    @property
    def info(self) -> StudyInfo:
        """What the study is about; StoreError where it was not written by this project."""
        with _speaking(f"study {self._study.study_name!r} cannot be read"):
            attributes = self._study.user_attrs
            if "info" not in attributes:
                raise StoreError(f"study {self._study.study_name!r} was not written by nas.search (it has no 'info')")
            return StudyInfo.from_dict(attributes["info"])

    def save_info(self, info: StudyInfo) -> None:
        """Writes the study's description."""
        with _speaking("the study cannot be written"):
            self._study.set_user_attr("info", info.to_dict())

    def ask(
        self, choices: Mapping[str, Sequence[Any]], fixed: Mapping[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """The number and parameters of a new trial from the sampler, or with the parameters `fixed`."""
        with _speaking("the study cannot be written"):
            if fixed is not None:
                # A driver killed between these two calls left it waiting in the queue.
                self._study.enqueue_trial(dict(fixed), skip_if_exists=True)
            trial = self._study.ask()
            return trial.number, self._suggest(trial, choices)

    def save(self, record: TrialRecord, values: Sequence[float] | None = None) -> None:
        """Writes a trial's record and, once it is no longer running, tells Optuna its state.

        `values` are the objectives of a COMPLETE trial and ignored for any other.
        """
        with _speaking("the study cannot be written"):
            storage = self._study._storage
            trial_id = storage.get_trial_id_from_study_id_trial_number(self._study._study_id, record.number)
            storage.set_trial_user_attr(trial_id, "record", record.to_dict())
            if record.state is not TrialState.RUNNING:
                told = list(values or ()) if record.state is TrialState.COMPLETE else None
                self._study.tell(record.number, told, state=_OPTUNA_STATES[record.state], skip_if_finished=True)

    def half_asked(self, choices: Mapping[str, Sequence[Any]]) -> list[tuple[int, dict[str, Any]]]:
        """Number and parameters of trials that a killed driver asked for and had no time to describe.

        Parameters that were not written yet are asked for again, under the same trial number.
        """
        with _speaking("the study cannot be read"):
            running = self._study.get_trials(deepcopy=False, states=(OptunaState.RUNNING,))
            cut_off = [t for t in running if "record" not in t.user_attrs]
            return [(t.number, self._suggest(optuna.Trial(self._study, t._trial_id), choices)) for t in cut_off]

    def half_told(self) -> list[TrialRecord]:
        """Records of trials that are over and that a killed driver had no time to tell Optuna of."""
        with _speaking("the study cannot be read"):
            running = records(self._study.get_trials(deepcopy=False, states=(OptunaState.RUNNING,)))
            return [record for record in running if record.state is not TrialState.RUNNING]

    @staticmethod
    def _suggest(trial: optuna.Trial, choices: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        return {name: trial.suggest_categorical(name, tuple(values)) for name, values in choices.items()}

    def trials(self) -> tuple[TrialRecord, ...]:
        """All trials in the order in which they were asked."""
        with _speaking("the study cannot be read"):
            return records(self._study.get_trials(deepcopy=False))

    def reranks(self) -> tuple[Rerank, ...]:
        """What was measured again elsewhere, oldest first."""
        with _speaking("the study's reranks cannot be read"):
            texts = [text for key, text in self._study.user_attrs.items() if key.startswith(_RERANK)]
            return tuple(sorted((Rerank.from_dict(json.loads(text)) for text in texts), key=lambda r: r.created))

    def save_rerank(self, rerank: Rerank) -> None:
        """Writes what was measured again, in the place of an earlier one of this name.

        As JSON text: Optuna decodes and copies every attribute of a study, also when only `info` is asked for.
        """
        with _speaking("the study cannot be written"):
            self._study.set_user_attr(_RERANK + rerank.name, json.dumps(rerank.to_dict()))

    def finals(self) -> tuple[Finalist, ...]:
        """What was trained again, by steps, trial and seed; failures too."""
        with _speaking("the study's finals cannot be read"):
            texts = [text for key, text in self._study.user_attrs.items() if key.startswith(_FINAL)]
            found = (Finalist.from_dict(json.loads(text)) for text in texts)
            return tuple(sorted(found, key=lambda f: (f.steps, f.number, f.seed)))

    def save_finalist(self, finalist: Finalist) -> None:
        """Writes one training, in the place of an earlier one of the same net, seed and steps; JSON text, as above."""
        with _speaking("the study cannot be written"):
            key = f"{_FINAL}{finalist.steps}:{finalist.number}:{finalist.seed}"
            self._study.set_user_attr(key, json.dumps(finalist.to_dict()))

    def read(self) -> Study:
        """The whole study as plain records."""
        return Study(self.info, self.trials())


def records(trials: Sequence[optuna.trial.FrozenTrial]) -> tuple[TrialRecord, ...]:
    """The records that these Optuna trials carry; trials that were asked and not yet described are left out."""
    return tuple(TrialRecord.from_dict(t.user_attrs["record"]) for t in trials if "record" in t.user_attrs)


def read_study(run_dir: Path) -> Study:
    """The study in `run_dir`, for reports; StoreError where it cannot be read."""
    return Store.open(run_dir).read()


def _storage(run_dir: Path) -> optuna.storages.RDBStorage:
    """The SQLite file, opened by ourselves: in a URL, a `?` in its path would begin the options."""
    path = run_dir.resolve() / STUDY_FILE
    return optuna.storages.RDBStorage(
        "sqlite://", engine_kwargs={"creator": lambda: _connect(path), "poolclass": QueuePool}
    )


def _connect(path: Path) -> sqlite3.Connection:
    """Write-ahead log: Optuna commits every parameter by itself, and each commit would wait for the disk.

    A killed process loses nothing; only a power cut can lose the last moments.
    """
    connection = sqlite3.connect(path, check_same_thread=False, timeout=60)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


@contextmanager
def _speaking(what: str) -> Iterator[None]:
    """Turns what the storage raises into a StoreError that says `what` and why in one line."""
    try:
        yield
    except StoreError:
        raise
    except (
        SQLAlchemyError,
        sqlite3.Error,
        optuna.exceptions.OptunaError,
        OSError,
        RuntimeError,
        AssertionError,
    ) as error:
        raise StoreError(f"{what}: {_cause(error)}") from error
    except (KeyError, TypeError, ValueError) as error:  # records of another version or of another hand
        raise StoreError(f"{what}: {type(error).__name__} {_cause(error)}") from error


def _cause(error: BaseException) -> str:
    """What the database itself said, in one line."""
    while error.__cause__ is not None:  # Optuna wraps what SQLAlchemy wraps
        error = error.__cause__
    origin = getattr(error, "orig", None) or error
    return " ".join(str(origin).split()) or type(origin).__name__
