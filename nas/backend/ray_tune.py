"""Run a `StudyLoop` with Ray Tune, on this machine or on a cluster.

The loop decides, Tune places the work. `LoopSearcher` gives the loop's next trial to Tune. `LoopScheduler` reports
every result to the loop and stops the trials that the loop stops, so that their workers take the next trial at once.
The loop also decides on retries: a retry is a new trial to Tune. No data structure here grows with the number of ended
trials. The study's store has every record before Tune receives it, so Tune's own files are scratch.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import ray
import torch
from ray import tune
from ray.tune.error import TuneError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from nas.backend.cluster import DeviceMismatchError, NodeSlots, ray_watchdog
from nas.backend.ray_session import head_address, joined_ray, local_ray, raylet_socket
from nas.backend.watchdog import NotPickled, TrialWatchdog
from nas.backend.worker import ArchTrainable, RunTrial, trial_phases
from nas.backend.worker_spec import WorkerSpec
from nas.cli import OperationFailed, one_line
from nas.command_log import Announce
from nas.measure.environment import device_kind
from nas.run_folder import checkpoint_path
from nas.study.failing_nodes import node_to_avoid
from nas.study.failures import Failure, spoils_process
from nas.study.records import TrialRecord, TrialState

_IDLE_S = 0.05  # pause of a driver without a slot: Tune asks for trials without a pause

_LOG = logging.getLogger(__name__)

ExplainLoss = Callable[[Any], tuple[Failure, str]]
SpecOf = Callable[[TrialRecord], WorkerSpec]  # what a worker needs for a trial


class Loop(Protocol):
    """What decides which trials run: a `StudyLoop` or a `TrainingLoop`."""

    @property
    def finished(self) -> bool:
        """Return whether no trial runs or is to be started."""

    @property
    def running(self) -> int:
        """Return the number of running trials."""

    @property
    def left_out(self) -> Mapping[str, str]:
        """Return the nodes that get no trial now, and why."""

    @property
    def running_on_left_out(self) -> Mapping[str, int]:
        """Return how many trials still run on each node that is left out."""

    def next_trial(self) -> TrialRecord | None:
        """Return the next trial to run; None while there is none to start."""

    def propose_ahead(self) -> None:
        """Propose the next trial while no worker is free for it."""

    def is_wanted(self, number: int) -> bool:
        """Return whether the result of a running trial may still matter."""

    def record(self, number: int) -> TrialRecord:
        """Return the record of a trial."""

    def report(self, record: TrialRecord) -> bool:
        """Store the record that a worker sent; return False if the trial has to end."""

    def report_lost(self, number: int, failure: Failure, reason: str) -> None:
        """Report a running trial as failed after its worker was lost."""

    def release(self, number: int) -> None:
        """Return a trial that no worker could begin."""

    def clean_up(self, delete_all_but: Callable[[Collection[str]], None]) -> None:
        """Call `delete_all_but` with the ids of the architectures whose checkpoints stay."""


class WorkerSlots(Protocol):
    """The slots in which trials can run at present.

    `left_out` has the beginnings of the ids of nodes that get no trial now; where no other node is left, they do.
    """

    def count(self, left_out: Mapping[str, str], still_running: Mapping[str, int]) -> int:
        """Return how many trials can run at a time, with those of `still_running` on nodes that are left out.

        `left_out` says why they are, and the user is told.
        """

    def node_ids(self, left_out: Collection[str], avoided: str | None) -> tuple[str, ...]:
        """Return the nodes that may take a trial, which another one than `avoided` had better; () for any node."""

    def any_alive(self, node_ids: tuple[str, ...]) -> bool:
        """Return whether one of these nodes is in the cluster; always true of ()."""


@dataclass(frozen=True)
class LocalSlots:
    """The slots of a machine that only this study uses."""

    number: int

    def count(self, left_out: Mapping[str, str], still_running: Mapping[str, int]) -> int:
        """Return the number of slots."""
        return self.number

    def node_ids(self, left_out: Collection[str], avoided: str | None) -> tuple[str, ...]:
        """Return (): there is one node."""
        return ()

    def any_alive(self, node_ids: tuple[str, ...]) -> bool:
        """Return True: the driver runs on the only node."""
        return True


@contextmanager
def _keep_error(errors: list[Exception]) -> Iterator[None]:
    """Append an error of the loop to `errors`: Tune wraps the errors of callbacks until the original is lost."""
    try:
        yield
    except Exception as error:
        errors.append(error)
        raise


class LoopSearcher(NotPickled, Searcher):
    """A searcher of Tune that suggests the loop's next trial whenever a slot is free.

    Args:
        loop: The loop of the study or of its race.
        spec_of: Returns what a worker needs for a trial.
        slots: The slots in which trials can run.
        phases: Yields a trial's records in the worker.
        errors: Takes an error of the loop.
    """

    def __init__(
        self, loop: Loop, spec_of: SpecOf, slots: WorkerSlots, phases: RunTrial, errors: list[Exception]
    ) -> None:
        super().__init__()
        self._loop, self._spec_of, self._slots, self._phases, self._errors = loop, spec_of, slots, phases, errors

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the configuration of a Tune trial, None while there is nothing to start, or FINISHED."""
        with _keep_error(self._errors):
            finished: str = Searcher.FINISHED
            if self._loop.finished:
                return finished
            left_out = self._loop.left_out
            slots = self._slots.count(left_out, self._loop.running_on_left_out)
            if self._loop.running >= max(1, slots):
                self._loop.propose_ahead()
                return None
            record = self._loop.next_trial() if slots else None
            if record is None:
                if self._loop.finished:
                    return finished
                if not self._loop.running:
                    time.sleep(_IDLE_S)
                return None
        spec = replace(self._spec_of(record), node_ids=self._slots.node_ids(left_out, node_to_avoid(record)))
        return {"record": json.dumps(record.to_dict()), "spec": spec.to_json(), "phases": self._phases}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the scheduler has reported the result."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the store has the study."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing, see `save`."""


class LoopScheduler(NotPickled, FIFOScheduler):
    """A scheduler of Tune that reports every result to the loop, and stops the trials that the loop stops.

    A trial may only run on the nodes that were accepted when it was suggested. If all of them leave the cluster before
    it begins, it would wait for ever without a time limit: it is stopped and released, so that the loop gives it out
    again.

    Args:
        loop: The loop of the study or of its race.
        spec_of: Returns what a worker needs for a trial.
        slots: The slots in which trials can run.
        explain_loss: Returns the failure and the reason of a Tune trial whose worker is gone.
        errors: Takes an error of the loop.
    """

    def __init__(
        self, loop: Loop, spec_of: SpecOf, slots: WorkerSlots, explain_loss: ExplainLoss, errors: list[Exception]
    ) -> None:
        super().__init__()
        self._loop, self._spec_of, self._errors = loop, spec_of, errors
        self._slots, self._explain_loss = slots, explain_loss
        self._pending: dict[str, tuple[Any, tuple[str, ...]]] = {}  # trials that did not begin, with their nodes
        self._discarded: set[str] = set()  # finished trials whose worker must not be used again

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Remember the nodes on which the trial may run."""
        self._pending[trial.trial_id] = trial, WorkerSpec.from_json(trial.config["spec"]).node_ids

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Stop pending trials whose nodes have left the cluster; Tune starts the others in FIFO order."""
        for trial, node_ids in list(self._pending.values()):
            if trial.status != Trial.PENDING:
                del self._pending[trial.trial_id]
            elif trial.temporary_state.ray_actor is None and not self._slots.any_alive(node_ids):
                _LOG.warning("a trial waits for nodes that have left the cluster; it is released")
                tune_controller.stop_trial(trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Release a trial that was stopped before it began."""
        self._loop.release(json.loads(trial.config["record"])["number"])

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Report a record to the loop, and return whether the trial continues."""
        record = TrialRecord.from_dict(json.loads(result["record"]))
        if trial.trial_id in self._discarded:  # its last record was reported
            stop: str = TrialScheduler.STOP
            return stop
        with _keep_error(self._errors):
            should_continue = self._loop.report(record)
        self._remove_checkpoint_if_over(record)
        if record.state is TrialState.FAILED and spoils_process(record.failure):
            # A trial without a next record ends with an error, and then Tune ends the process.
            self._discarded.add(trial.trial_id)
            should_continue = True
        decision: str = TrialScheduler.CONTINUE if should_continue else TrialScheduler.STOP
        return decision

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Report a trial whose worker is gone as lost."""
        if trial.trial_id in self._discarded:
            self._discarded.remove(trial.trial_id)
            return
        record = TrialRecord.from_dict(json.loads(trial.config["record"]))
        failure, reason = self._explain_loss(trial)
        with _keep_error(self._errors):
            self._loop.report_lost(record.number, failure, reason)
        self._remove_checkpoint_if_over(record)

    def _remove_checkpoint_if_over(self, record: TrialRecord) -> None:
        """Remove the checkpoint of a finished training, and the unfinished one of a killed worker."""
        if self._loop.record(record.number).state is not TrialState.RUNNING:
            for path in Path(self._spec_of(record).checkpoint_dir).glob(f"{record.arch_id}.*"):
                path.unlink(missing_ok=True)


class RayError(ValueError, OperationFailed):
    """Ray ended before the study; the message is one line."""


@dataclass(frozen=True)
class RayCluster:
    """A running Ray with nodes that can take trials.

    Args:
        spec: What a worker needs.
        slots: The slots in which trials can run.
        head_address: HOST:PORT of its head.
        raylet_socket: Path of the socket of this machine's raylet.
    """

    spec: WorkerSpec
    slots: WorkerSlots
    head_address: str
    raylet_socket: str


@contextmanager
def open_cluster(
    spec: WorkerSpec,
    workers: int | None,
    *,
    address: str | None = None,
    study_device: str | None = None,
    announce: Announce = print,
) -> Iterator[RayCluster]:
    """Start Ray on this machine or join a running cluster, and yield it; refuse a study before it is written.

    Args:
        spec: What a worker needs.
        workers: Trials at a time; on a cluster, None stands for as many as its nodes can take, which may change.
        address: "auto" or HOST:PORT of a running Ray cluster; None starts Ray on this machine for this study alone.
        study_device: Kind of device that the study was measured on, see `nas.measure.environment.device_kind`; None
            for this machine's.
        announce: Shows a line to the user.

    Raises:
        ClusterError: The cluster cannot be joined, or none of its nodes can take a trial.
        DeviceMismatchError: The study was measured on another kind of device.
    """
    if address is None:
        _check_device(study_device, json.loads(spec.config)["device"])
        number = workers or 1
        gpus = torch.cuda.device_count() if spec.gpus else None
        with local_ray(number * int(spec.trial_resources["CPU"]), gpus, announce) as scratch:
            yield RayCluster(replace(spec, scratch=scratch), LocalSlots(number), head_address(), raylet_socket())
        return
    with (
        joined_ray(address, Path(spec.checkpoint_dir).parent, announce) as scratch,
        NodeSlots(spec, study_device, workers, announce) as slots,
    ):
        yield RayCluster(replace(spec, scratch=scratch), slots, head_address(), raylet_socket())


def run_study(
    loop: Loop,
    cluster: RayCluster,
    *,
    trial_timeout_s: float | None = None,
    phases: RunTrial = trial_phases,
    spec_of: SpecOf | None = None,
    advice: str | None = None,
) -> None:
    """Run the loop to its end; KeyboardInterrupt passes through.

    Args:
        loop: The loop of the study or of its race.
        cluster: Runs the trials.
        trial_timeout_s: Seconds after which a phase of a trial (measuring, a rung) hangs; None for a limit that follows
            from earlier trials.
        phases: Yields a trial's records in the worker.
        spec_of: Returns what a worker needs for a trial; None: the same for all, that of the cluster.
        advice: How to continue where Ray is gone; None: with the search command.

    Raises:
        RayError: Ray is gone, as when a cluster's head died.
        SamplerError: The sampler failed.
        StoreError: The study cannot be written.
    """
    checkpoints = Path(cluster.spec.checkpoint_dir)
    advice = f"nothing stored is lost; {advice or f'resume with --resume {checkpoints.parent}'}"
    try:
        with ray_watchdog(cluster.head_address, cluster.raylet_socket, advice):
            _remove_stale_checkpoints(loop, checkpoints)
            _run(loop, cluster, trial_timeout_s, phases, spec_of or (lambda record: cluster.spec))
            _remove_stale_checkpoints(loop, checkpoints)  # workers of a killed driver write for another moment
    except (ray.exceptions.RayError, TuneError) as error:
        raise RayError(f"Ray: {one_line(error)[:300]}; {advice}") from error


def _check_device(study_device: str | None, device: str) -> None:
    """Raise DeviceMismatchError where this machine's device is of another kind than the study's."""
    if study_device is not None and (here := device_kind(device)) != study_device:
        raise DeviceMismatchError(
            f"the study was measured on {study_device}, and this machine has {here}: their timings cannot be compared"
        )


def _remove_stale_checkpoints(loop: Loop, checkpoints: Path) -> None:
    """Remove the files of a killed session: half-written ones, and checkpoints of finished trials."""

    def delete_all_but(running: Collection[str]) -> None:
        kept = {checkpoint_path(checkpoints, arch_id) for arch_id in running}
        for path in checkpoints.iterdir():
            if path not in kept and not path.name.startswith("."):
                path.unlink(missing_ok=True)

    loop.clean_up(delete_all_but)


def _run(loop: Loop, cluster: RayCluster, trial_timeout_s: float | None, phases: RunTrial, spec_of: SpecOf) -> None:
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the records have the failures
    errors: list[Exception] = []
    watchdog = TrialWatchdog(trial_timeout_s, is_wanted=loop.is_wanted)
    tuner = tune.Tuner(
        ArchTrainable,
        tune_config=tune.TuneConfig(
            search_alg=LoopSearcher(loop, spec_of, cluster.slots, phases, errors),
            scheduler=LoopScheduler(loop, spec_of, cluster.slots, watchdog.explain_loss, errors),
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            storage_path=cluster.spec.scratch,
            name="trials",
            verbose=0,
            progress_reporter=tune.CLIReporter(),  # silent; the one for notebooks clears the cell's output
            callbacks=[watchdog],
        ),
    )
    try:
        tuner.fit()
    except Exception:
        if errors:
            raise errors[0] from errors[0].__cause__  # without Tune's errors
        raise
