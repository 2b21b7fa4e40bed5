"""Run a `StudyLoop` with Ray Tune, on this machine or on a cluster.

The loop decides, Tune places the work. `LoopSearcher` hands the loop's next trial to Tune. `LoopScheduler` reports
every result to the loop and stops the trials that the loop stops, so that their workers take the next trial at once.
The loop also decides on retries: a retry is a new trial to Tune. No data structure here grows with the number of ended
trials. Everything worth keeping is in the study's store before Tune hears of it, so Tune's own files are scratch.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune
from ray._private import services
from ray.tune.error import TuneError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from nas.backend import OF_WORKERS
from nas.backend.cluster import ClusterError, Nodes, NodesError, Say, watched_head
from nas.backend.watchdog import NotPickled, Watch
from nas.backend.worker import ArchTrainable, Stages, arch_stages
from nas.backend.worker_spec import WorkerSpec
from nas.cli import OperationFailed, checkpoint_path
from nas.measure.environment import device_kind
from nas.storage.store import StoreError
from nas.study.failures import Failure, spoils_process
from nas.study.loop import StudyLoop
from nas.study.records import TrialRecord, TrialState

_MOMENT_S = 0.05  # between two questions of a driver that only waits for others: Tune asks without a pause

WhyLost = Callable[[Any], tuple[Failure, str]]


class WorkerSlots(Protocol):
    """Where trials can run at present."""

    def workers(self) -> int:
        """How many at a time."""

    def node_ids(self) -> tuple[str, ...]:
        """On which nodes; (): on any."""

    def holds(self, node_ids: tuple[str, ...]) -> bool:
        """Whether one of these nodes is there; of (), always."""


@contextmanager
def _noted(errors: list[StoreError]) -> Iterator[None]:
    """Keeps a store's error: Tune wraps what a callback raises until nothing of it is left."""
    try:
        yield
    except StoreError as error:
        errors.append(error)
        raise


class LoopSearcher(NotPickled, Searcher):
    """Gives Tune the loop's next trial whenever there is room for one."""

    def __init__(
        self, loop: StudyLoop, places: WorkerSpec, room: WorkerSlots, stages: Stages, errors: list[StoreError]
    ) -> None:
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


class LoopScheduler(NotPickled, FIFOScheduler):
    """Hands every result to the loop and ends the trials that the loop ends, with their checkpoints.

    A trial may only go to nodes that were known to be good when it was asked for. Where all of them are gone before it
    begins, it would wait for ever, and nothing would time it: it is handed back to the loop, to be asked for anew.

    why_lost: says of a trial of Tune's whose worker is gone what became of it.
    """

    def __init__(
        self, loop: StudyLoop, places: WorkerSpec, room: WorkerSlots, why_lost: WhyLost, errors: list[StoreError]
    ) -> None:
        super().__init__()
        self._loop, self._checkpoints, self._errors = loop, Path(places.checkpoint_dir), errors
        self._room, self._why_lost = room, why_lost
        self._waiting: dict[str, tuple[Any, tuple[str, ...]]] = {}  # trials that did not begin, and where they may
        self._let_go: set[str] = set()  # trials that are over, and whose worker is to end

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._waiting[trial.trial_id] = trial, WorkerSpec.from_json(trial.config["places"]).node_ids

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """None: Tune starts what waits, in order, by itself. What waits in vain is taken from it."""
        for trial, node_ids in list(self._waiting.values()):
            if trial.status != Trial.PENDING:
                del self._waiting[trial.trial_id]
            elif trial.temporary_state.ray_actor is None and not self._room.holds(node_ids):
                tune_controller.stop_trial(trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._loop.release(json.loads(trial.config["record"])["number"])

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        record = TrialRecord.from_dict(json.loads(result["record"]))
        if trial.trial_id in self._let_go:  # it has spoken its last word
            stop: str = TrialScheduler.STOP
            return stop
        with _noted(self._errors):
            should_continue = self._loop.report(record)
        self._forget_if_over(record)
        if record.state is TrialState.FAILED and spoils_process(record.failure):
            # A trial without a next record ends with an error, upon which Tune ends the process.
            self._let_go.add(trial.trial_id)
            should_continue = True
        decision: str = TrialScheduler.CONTINUE if should_continue else TrialScheduler.STOP
        return decision

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        if trial.trial_id in self._let_go:
            self._let_go.remove(trial.trial_id)
            return
        record = TrialRecord.from_dict(json.loads(trial.config["record"]))
        failure, reason = self._why_lost(trial)
        with _noted(self._errors):
            self._loop.report_lost(record.number, failure, reason)
        self._forget_if_over(record)

    def _forget_if_over(self, record: TrialRecord) -> None:
        """Removes the checkpoint of a training that is over, and what a killed worker wrote of one."""
        if self._loop.trials[record.number].state is not TrialState.RUNNING:
            for path in self._checkpoints.glob(f"{record.arch_id}.*"):
                path.unlink(missing_ok=True)


# glibc gives large buffers back to the kernel and faults them in again at every training step, unless told not to.
_WORKER_ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": "2000000000", "MALLOC_MMAP_THRESHOLD_": "2000000000"}
_OBJECT_STORE_BYTES = 128 * 2**20  # specs and records are small; targets are memory-mapped files


class RayError(ValueError, OperationFailed):
    """Ray came to its end before the study did; the message is one line."""


@dataclass(frozen=True)
class RayCluster:
    """A Ray that is there, with nodes that can take trials."""

    places: WorkerSpec
    room: WorkerSlots
    head: str  # HOST:PORT


@contextmanager
def open_cluster(
    places: WorkerSpec, workers: int | None, *, address: str | None = None, kind: str | None = None, say: Say = print
) -> Iterator[RayCluster]:
    """Where a study can run; what would refuse it does so here, before anything is written into the study.

    Args:
        places: of the workers.
        workers: trials at a time; on a cluster, None is as many as its nodes can take, also when some come or go.
        address: of a running Ray cluster, "auto" or HOST:PORT; None starts one on this machine, for itself.
        kind: of device that the study was measured on, see `nas.measure.environment.device_kind`; None: this machine's.
        say: shows a line to people.

    Raises:
        NodesError: the cluster is not there, none of its nodes can take a trial, or the study's device is another.
    """
    if address is None:
        _refuse_another_device(kind, json.loads(places.config)["device"])
        with _own_ray(places, workers or 1) as scratch:
            yield RayCluster(replace(places, scratch=scratch), _Fixed(workers or 1), _head())
        return
    with (
        _joined(address, Path(places.checkpoint_dir).parent) as scratch,
        Nodes(places, kind, workers, say) as nodes,
    ):
        yield RayCluster(replace(places, scratch=scratch), nodes, _head())


def run_study(
    loop: StudyLoop, site: RayCluster, *, time_limit_s: float | None = None, stages: Stages = arch_stages
) -> None:
    """Runs the loop to its end; KeyboardInterrupt passes through.

    Args:
        loop: decides.
        site: where trials run.
        time_limit_s: after which a stage of a trial (measuring, a rung) hangs; None: by what earlier trials took.
        stages: makes a trial's records in the worker.

    Raises:
        RayError: Ray is gone, as when a cluster's head died.
    """
    checkpoints = Path(site.places.checkpoint_dir)
    advice = f"nothing stored is lost; go on with --resume {checkpoints.parent}"
    try:
        with watched_head(site.head, advice):
            _sweep(loop, checkpoints)
            _run(loop, site, time_limit_s, stages)
            _sweep(loop, checkpoints)  # workers of a killed driver live on for a moment, and write
    except (ray.exceptions.RayError, TuneError) as error:
        raise RayError(f"Ray: {' '.join(str(error).split())[:300]}; {advice}") from error


@dataclass(frozen=True)
class _Fixed:
    """The room of a machine that only this study uses."""

    number: int

    def workers(self) -> int:
        return self.number

    def node_ids(self) -> tuple[str, ...]:
        return ()

    def holds(self, node_ids: tuple[str, ...]) -> bool:
        return True


@contextmanager
def _own_ray(places: WorkerSpec, workers: int) -> Iterator[str]:
    """A Ray on this machine that listens to nobody else; yields a scratch folder."""
    # The socket paths of Ray must stay under 107 characters, which a run folder deep in a home would break.
    with tempfile.TemporaryDirectory(prefix="nas-ray-") as scratch:
        try:
            _init(
                address="local",
                num_cpus=workers * (1 if places.ranks == 1 else 1 + places.ranks),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                runtime_env={"env_vars": _WORKER_ENVIRONMENT},
                _node_ip_address="127.0.0.1",
                _temp_dir=scratch,
            )
            yield scratch
        finally:
            ray.shutdown()


@contextmanager
def _joined(address: str, run_dir: Path) -> Iterator[str]:
    """A cluster that others keep; yields a scratch folder that all nodes see."""
    with tempfile.TemporaryDirectory(prefix=".ray-", dir=run_dir) as scratch:
        try:
            if address != "auto":
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), timeout=10).close()  # Ray tries for minutes
            _init(address=address, runtime_env={"env_vars": _WORKER_ENVIRONMENT | OF_WORKERS})
        except (OSError, RuntimeError, ValueError) as error:
            raise ClusterError(f"--address: cannot join a Ray cluster at {address!r}: {error}") from error
        try:
            yield scratch
        finally:
            ray.shutdown()


def _init(**settings: Any) -> None:
    # Ray swaps a loopback address for the machine's own and would listen to the network.
    services.resolve_ip_for_localhost = lambda host: host
    on_sigterm = signal.getsignal(signal.SIGTERM)
    ray.init(logging_level=logging.ERROR, log_to_driver=False, **settings)
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray put its own, which would exit without a word


def _head() -> str:
    return str(ray.get_runtime_context().gcs_address)


def _refuse_another_device(wanted: str | None, device: str) -> None:
    """NodesError where a study goes on that was measured on another kind of device than this machine's."""
    if wanted is not None and (here := device_kind(device)) != wanted:
        raise NodesError(f"the study was measured on {wanted}, here is {here}: their numbers do not mix")


def _sweep(loop: StudyLoop, checkpoints: Path) -> None:
    """Removes what a killed session left: half-written files, and checkpoints of trials that are over."""

    def forget(under_way: Collection[str]) -> None:
        wanted = {checkpoint_path(checkpoints, arch_id) for arch_id in under_way}
        for path in checkpoints.iterdir():
            if path not in wanted and not path.name.startswith("."):
                path.unlink(missing_ok=True)

    loop.forget_finished(forget)


def _run(loop: StudyLoop, site: RayCluster, time_limit_s: float | None, stages: Stages) -> None:
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is in the records
    errors: list[StoreError] = []
    watch = Watch(time_limit_s)
    tuner = tune.Tuner(
        ArchTrainable,
        tune_config=tune.TuneConfig(
            search_alg=LoopSearcher(loop, site.places, site.room, stages, errors),
            scheduler=LoopScheduler(loop, site.places, site.room, watch.why_lost, errors),
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(storage_path=site.places.scratch, name="trials", verbose=0, callbacks=[watch]),
    )
    try:
        tuner.fit()
    except Exception:
        if errors:
            raise errors[0] from None
        raise
