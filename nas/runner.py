"""Ray Tune runs the trials of a `StudyLoop`: the one module that names ray.

The loop decides, Tune places work: a searcher hands out what the loop asks for, a scheduler tells the loop what came
back and ends the trials that it stops. Workers keep their process, with its memory-mapped teachers, from trial to
trial. Everything worth keeping is in the study's store before Tune hears of it, so Tune's own files are scratch.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default: any other process would slow a measurement down
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "86400"
os.environ["TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S"] = "0"

import ray
from ray import tune
from ray._private import services
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from nas.places import checkpoint_path
from nas.records import TrialRecord, TrialState
from nas.store import StoreError
from nas.study import StudyLoop

# glibc gives large buffers back to the kernel and faults them in again at every training step, unless told not to.
_WORKER_ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": "2000000000", "MALLOC_MMAP_THRESHOLD_": "2000000000"}
_OBJECT_STORE_BYTES = 128 * 2**20  # specs and records are small; targets are memory-mapped files


@dataclass(frozen=True)
class Places:
    """Where a worker finds and leaves things: absolute folders that every node sees, and its share of the machine."""

    config: str  # SearchConfig as JSON
    targets_dir: str
    lock_dir: str
    weights_dir: str
    pictures_dir: str
    checkpoint_dir: str
    train_threads: int
    measure_threads: int
    gpus: float = 0.0


class ArchTrainable(tune.Trainable):
    """Steps through one trial's stages; the process and its workbench stay for the next one."""

    def setup(self, config: dict[str, Any]) -> None:
        """Called by Tune in a fresh worker process."""
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called by Tune when the worker takes its next trial."""
        record = TrialRecord.from_dict(json.loads(new_config["record"]))
        self._stages = _stages(record, Places(**new_config["places"]))
        return True

    def step(self) -> dict[str, Any]:
        """The next record of the trial, as JSON: nested results would be flattened."""
        return {"record": json.dumps(next(self._stages).to_dict())}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the store has the records."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing, see `save_checkpoint`."""


def _stages(record: TrialRecord, places: Places) -> Iterator[TrialRecord]:
    """The trial's records; a workbench that cannot be set up is a failed trial with its reason."""
    try:
        from nas.trial import run_trial

        bench = _workbench(places)
    except Exception as error:
        reason = f"the worker could not start: {type(error).__name__}: {error}"
        yield replace(record, state=TrialState.FAILED, reason=reason)
        return
    yield from run_trial(record, bench)


@cache
def _workbench(places: Places) -> Any:
    """Imports torch and opens the teachers once for the life of a worker process."""
    import torch

    from nas.cache.targets import load_targets
    from nas.config import SearchConfig
    from nas.trial import Workbench

    torch.set_num_threads(places.train_threads)
    return Workbench(
        config=SearchConfig.from_dict(json.loads(places.config)),
        targets=load_targets(Path(places.targets_dir)),
        lock_dir=Path(places.lock_dir),
        weights_dir=Path(places.weights_dir),
        pictures_dir=Path(places.pictures_dir),
        checkpoint_dir=Path(places.checkpoint_dir),
        train_threads=places.train_threads,
        measure_threads=places.measure_threads,
    )


class _Live:
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


class _Asker(_Live, Searcher):
    """Gives Tune the loop's next trial whenever fewer than `workers` are running."""

    def __init__(self, loop: StudyLoop, places: Places, workers: int, errors: list[StoreError]) -> None:
        super().__init__()
        self._loop, self._places, self._workers, self._errors = loop, vars(places), workers, errors
        self.numbers: dict[str, int] = {}  # Tune's trial id -> ours

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._loop.finished:
            finished: str = Searcher.FINISHED
            return finished
        with _noted(self._errors):
            record = self._loop.next_trial() if self._loop.running < self._workers else None
        if record is None:
            return Searcher.FINISHED if self._loop.finished else None
        self.numbers[trial_id] = record.number
        return {"record": json.dumps(record.to_dict()), "places": dict(self._places)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if error:
            with _noted(self._errors):
                self._loop.lost(self.numbers[trial_id], "the worker process died")

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store has the study."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""


class _Gate(_Live, FIFOScheduler):
    """Hands every result to the loop and ends the trials that the loop ends, with their checkpoints."""

    def __init__(self, loop: StudyLoop, places: Places, errors: list[StoreError]) -> None:
        super().__init__()
        self._loop, self._checkpoints, self._errors = loop, Path(places.checkpoint_dir), errors

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        record = TrialRecord.from_dict(json.loads(result["record"]))
        with _noted(self._errors):
            goes_on = self._loop.take(record)
        if not goes_on:
            checkpoint_path(self._checkpoints, record.arch_id).unlink(missing_ok=True)
        decision: str = TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP
        return decision


def run_study(loop: StudyLoop, places: Places, workers: int) -> None:
    """Runs the loop to its end on a local Ray, `workers` trials at a time; KeyboardInterrupt passes through."""
    # The socket paths of Ray must stay under 107 characters, which a run folder deep in a home would break.
    with tempfile.TemporaryDirectory(prefix="nas-ray-") as scratch:
        # Ray swaps a loopback address for the machine's own and would listen to the network.
        services.resolve_ip_for_localhost = lambda host: host
        on_sigterm = signal.getsignal(signal.SIGTERM)
        ray.init(
            address="local",
            num_cpus=workers,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            runtime_env={"env_vars": _WORKER_ENVIRONMENT},
            logging_level=logging.ERROR,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=scratch,
        )
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray put its own, which would exit without a word
        try:
            _tune(loop, places, workers, scratch)
        finally:
            ray.shutdown()


def _tune(loop: StudyLoop, places: Places, workers: int, scratch: str) -> None:
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is in the records
    errors: list[StoreError] = []
    tuner = tune.Tuner(
        tune.with_resources(ArchTrainable, {"cpu": 1, "gpu": places.gpus}),
        tune_config=tune.TuneConfig(
            search_alg=_Asker(loop, places, workers, errors),
            scheduler=_Gate(loop, places, errors),
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(storage_path=scratch, name="trials", verbose=0),
    )
    try:
        tuner.fit()
    except Exception:
        if errors:
            raise errors[0] from None
        raise
