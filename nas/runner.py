"""Ray Tune runs the trials of a `StudyLoop`: the one module that names ray.

The loop decides, Tune places work: a searcher hands out what the loop asks for, a scheduler tells the loop what came
back and ends the trials that it stops. Workers keep their process, with its memory-mapped teachers, from trial to
trial; one that dies is started again once, and its trial goes on from the last checkpoint. Everything worth keeping is
in the study's store before Tune hears of it, so Tune's own files are scratch.

A trial of several ranks only measures in its own process, and for every rung has Ray Train start the ranks, which go on
from the rung before. That costs the start of a few processes a rung, and saves all talk between scheduler and ranks.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default: any other process would slow a measurement down
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # one more process, for clouds
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # how often Train looks whether a rung is over
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")  # a busy machine imports torch slowly
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "86400"
os.environ["TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S"] = "0"

import ray
from ray import train, tune
from ray._private import services
from ray.train.backend import Backend
from ray.train.torch import TorchConfig, TorchTrainer
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from nas.places import checkpoint_interval_s, checkpoint_path
from nas.records import RungResult, TrialRecord, TrialState
from nas.store import StoreError
from nas.study import StudyLoop

# glibc gives large buffers back to the kernel and faults them in again at every training step, unless told not to.
_WORKER_ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": "2000000000", "MALLOC_MMAP_THRESHOLD_": "2000000000"}
_OBJECT_STORE_BYTES = 128 * 2**20  # specs and records are small; targets are memory-mapped files
# A rank has a GPU for itself, beside the trials that measure there: two ranks do not fit, a rank and ten trials do.
_GPU_OF_A_RANK, _GPU_OF_ITS_TRIAL = 0.9, 0.01


@dataclass(frozen=True)
class Places:
    """Where a worker finds and leaves things: absolute folders that every node sees, and its share of the machine."""

    config: str  # SearchConfig as JSON
    targets_dir: str
    lock_dir: str  # of all devices
    samples_dir: str
    weights_dir: str
    pictures_dir: str
    checkpoint_dir: str
    train_threads: int
    measure_threads: int
    gpus: float = 0.0
    checkpoint_s: float = field(default_factory=checkpoint_interval_s)
    scratch: str = ""  # folder that is gone after the session

    @property
    def ranks(self) -> int:
        """Processes that train one architecture."""
        return int(json.loads(self.config)["distill"]["ranks"])

    @property
    def for_a_trial(self) -> dict[str, float]:
        """Resources of the process that measures, and trains where it is alone."""
        return {"cpu": 1, "gpu": self.gpus if self.ranks == 1 else self.gpus * _GPU_OF_ITS_TRIAL}

    @property
    def for_a_rank(self) -> dict[str, float]:
        """Resources of each process that only trains."""
        return {"CPU": 1, "GPU": self.gpus * _GPU_OF_A_RANK}


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

    from nas.bench import Bench
    from nas.cache.targets import load_targets
    from nas.config import SearchConfig
    from nas.measure.environment import device_key
    from nas.trial import Workbench

    threads = max(1, places.train_threads // places.ranks)
    torch.set_num_threads(threads)
    config = SearchConfig.from_dict(json.loads(places.config))
    return Workbench(
        config=config,
        targets=load_targets(Path(places.targets_dir)),
        bench=Bench(places.measure_threads),
        lock_dir=Path(places.lock_dir) / device_key(config.device),
        samples_dir=Path(places.samples_dir),
        weights_dir=Path(places.weights_dir),
        pictures_dir=Path(places.pictures_dir),
        checkpoint_dir=Path(places.checkpoint_dir),
        checkpoint_s=places.checkpoint_s,
        together=partial(_in_ranks, places) if places.ranks > 1 else None,
    )


class _RankBackend(Backend):  # type: ignore[misc]
    """Nothing to set up: ranks join by themselves (nas.distill.parallel). Each sees the others' GPUs, as NCCL wants."""

    share_cuda_visible_devices = True


class _RankConfig(TorchConfig):  # type: ignore[misc]
    """As Train's own, which would have PyTorch listen on all interfaces."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _RankBackend


def _in_ranks(places: Places, record: TrialRecord, rung: int) -> RungResult:
    """Trains one rung of a record in processes of its own; raises what the first of them raised."""
    with tempfile.TemporaryDirectory(dir=places.scratch) as folder:
        trainer = TorchTrainer(
            _rank,
            train_loop_config={
                "record": json.dumps(record.to_dict()),
                "rung": rung,
                "places": vars(places),
                "meeting_point": f"{folder}/ranks",
            },
            torch_config=_RankConfig(),
            scaling_config=train.ScalingConfig(
                num_workers=places.ranks,
                use_gpu=places.gpus > 0,
                resources_per_worker=places.for_a_rank,
                placement_strategy="STRICT_PACK",  # one machine: the lock that keeps measurements apart is a file
            ),
            run_config=train.RunConfig(name="rung", storage_path=folder),
        )
        try:
            result = trainer.fit()
        except train.WorkerGroupError as error:
            # Who has lost the others complains of the connection, a plain RuntimeError: not the cause.
            raise min(error.worker_failures.values(), key=lambda e: type(e) is RuntimeError) from error
    return RungResult.from_dict(result.return_value)


def _rank(settings: dict[str, Any]) -> dict[str, Any] | None:
    """One rank: its part of a rung; rank 0 has the result."""
    from nas.distill import parallel
    from nas.trial import train_rank

    context, bench = train.get_context(), _workbench(Places(**settings["places"]))
    record = TrialRecord.from_dict(json.loads(settings["record"]))
    meeting_point = Path(settings["meeting_point"])
    with parallel.joined(context.get_world_rank(), context.get_world_size(), meeting_point, bench.config.device):
        result = train_rank(record, settings["rung"], bench)
    return None if result is None else result.to_dict()


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
        self._loop, self._places, self._workers, self._errors = loop, places, workers, errors
        self.numbers: dict[str, int] = {}  # Tune's trial id -> ours

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        with _noted(self._errors):
            if self._loop.finished:
                finished: str = Searcher.FINISHED
                return finished
            record = self._loop.next_trial() if self._loop.running < self._workers else None
            if record is None:
                return Searcher.FINISHED if self._loop.finished else None
        self.numbers[trial_id] = record.number
        return {"record": json.dumps(record.to_dict()), "places": dict(vars(self._places))}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if error:
            with _noted(self._errors):
                arch_id = self._loop.lost(self.numbers[trial_id], "the worker process died twice")
            _forget(Path(self._places.checkpoint_dir), arch_id)

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
            _forget(self._checkpoints, record.arch_id)
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
            num_cpus=workers * (1 if places.ranks == 1 else 1 + places.ranks),
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            runtime_env={"env_vars": _WORKER_ENVIRONMENT},
            logging_level=logging.ERROR,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=scratch,
        )
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray put its own, which would exit without a word
        if not loop.beside:  # another driver's workers are writing theirs
            _sweep(loop, Path(places.checkpoint_dir))
        try:
            _tune(loop, replace(places, scratch=scratch), workers)
        finally:
            ray.shutdown()


def _forget(checkpoints: Path, arch_id: str) -> None:
    """Removes the checkpoint of a training that is over, and what a killed worker wrote of one."""
    for path in checkpoints.glob(f"{arch_id}.*"):
        path.unlink(missing_ok=True)


def _sweep(loop: StudyLoop, checkpoints: Path) -> None:
    """Removes what a killed session left: half-written files, and checkpoints of trials that are over."""
    running = [t.arch_id for t in loop.trials.values() if t.state is TrialState.RUNNING]
    wanted = {checkpoint_path(checkpoints, arch_id) for arch_id in running}
    for path in checkpoints.iterdir():
        if path not in wanted:
            path.unlink()


def _tune(loop: StudyLoop, places: Places, workers: int) -> None:
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is in the records
    errors: list[StoreError] = []
    tuner = tune.Tuner(
        tune.with_resources(ArchTrainable, places.for_a_trial),
        tune_config=tune.TuneConfig(
            search_alg=_Asker(loop, places, workers, errors),
            scheduler=_Gate(loop, places, errors),
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            storage_path=places.scratch,
            name="trials",
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=1),  # of processes: what a trial raises is in its record
        ),
    )
    try:
        tuner.fit()
    except Exception:
        if errors:
            raise errors[0] from None
        raise
