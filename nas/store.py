"""The study in its Optuna storage: the only truth about a search.

Beside `nas.samplers` and what lies below it in `nas.storage`, the one module that names optuna. Every trial carries its
whole `TrialRecord` as the user attribute ``record`` and the driver that runs it as ``driver``; the study carries its
`StudyInfo` as ``info``, what was measured again as ``remeasurement:NAME`` and what was trained again as
``retraining:STEPS:TRIAL:SEED``. Optuna's own trial state says what its samplers may learn from: COMPLETE with both
values only for trials trained to the last rung, PRUNED for trials that were stopped, infeasible or asked twice, FAIL
for failures. So optuna-dashboard opens our studies as they are.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from nas.records import Remeasurement, Retraining, Study, StudyInfo, TrialRecord
from nas.storage.database import Database
from nas.storage.errors import StoreError, patiently, speaking
from nas.storage.place import STUDY_FILE, Place
from nas.storage.trials import Trials

__all__ = ["STUDY_FILE", "Store", "StoreError", "read_study", "records"]

_REMEASUREMENT = "remeasurement:"
_RETRAINING = "retraining:"
optuna.logging.set_verbosity(optuna.logging.ERROR)
Result = TypeVar("Result")


class Store(Trials):
    """Reads and writes one study. Not shared between processes: each driver opens its own, and closes it."""

    def close(self) -> None:
        """Leave the study and close every connection to its database."""
        self.leave()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @classmethod
    def create(cls, run_dir: Path, info: StudyInfo, sampler: BaseSampler, database: str | None = None) -> Store:
        """A new study in `run_dir`/study.db or `database`; StoreError where there is one already."""
        place = Place.new(run_dir, database)
        _check_room(place)
        with (
            ExitStack() as stack,
            speaking(f"cannot write a study in {str(run_dir if place.url is None else place)!r}"),
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
        _check_room(Place.new(run_dir, database))

    @classmethod
    def open(cls, run_dir: Path, sampler: BaseSampler | None = None, database: str | None = None) -> Store:
        """The study of `run_dir`; StoreError where there is none or it cannot be read."""
        place = Place.of(run_dir, database)
        failed = f"{place} is not a readable study" if place.url is None else f"{place} cannot be read"
        with ExitStack() as stack, speaking(failed):
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

    def patiently(self, work: Callable[[], Result]) -> Result:
        """`work()`, again and again while the database is away; it has to change nothing but the store.

        Raises:
            StoreError: the database was away for too long.
        """
        return patiently(work, self.say, f"nothing stored is lost; go on with --resume {self.place.run_dir}")

    def remeasurements(self) -> tuple[Remeasurement, ...]:
        """Return what was measured again, oldest first."""
        with speaking("the study's remeasurements cannot be read"):
            texts = [text for key, text in self._study.user_attrs.items() if key.startswith(_REMEASUREMENT)]
            found = (Remeasurement.from_dict(json.loads(text)) for text in texts)
            return tuple(sorted(found, key=lambda r: r.created))

    def save_remeasurement(self, remeasurement: Remeasurement) -> None:
        """Write a remeasurement in the place of an earlier one of this name.

        As JSON text: Optuna decodes and copies every attribute of a study, also when only `info` is asked for.
        """
        with speaking("the study cannot be written"):
            self._study.set_user_attr(_REMEASUREMENT + remeasurement.name, json.dumps(remeasurement.to_dict()))

    def retrainings(self) -> tuple[Retraining, ...]:
        """Return what was trained again, by steps, trial and seed; failures too."""
        with speaking("the study's retrainings cannot be read"):
            texts = [text for key, text in self._study.user_attrs.items() if key.startswith(_RETRAINING)]
            found = (Retraining.from_dict(json.loads(text)) for text in texts)
            return tuple(sorted(found, key=lambda r: (r.steps, r.number, r.seed)))

    def save_retraining(self, retraining: Retraining) -> None:
        """Write a retraining, as JSON text, in the place of an earlier one of the same trial, seed and steps."""
        with speaking("the study cannot be written"):
            key = f"{_RETRAINING}{retraining.steps}:{retraining.number}:{retraining.seed}"
            self._study.set_user_attr(key, json.dumps(retraining.to_dict()))

    def read(self) -> Study:
        """The whole study as plain records."""
        return Study(self.info, self.trials())


def _check_room(place: Place) -> None:
    """StoreError where a study is; what a kill left of the beginning of one is none."""
    if place.url is None and not (place.run_dir / STUDY_FILE).exists():
        return
    with speaking(f"{place} cannot be used"), Database(place) as database:
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
