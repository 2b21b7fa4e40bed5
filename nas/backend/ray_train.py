"""Train one model in processes of a Ray cluster, which Ray Train starts and joins into a process group.

Where a node or a process is lost, Ray Train starts all processes again as soon as the cluster has processors for them,
and they continue from the last checkpoint. A training that breaks down by itself is not tried again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.backend.cluster import ray_watchdog
from nas.backend.ray_session import head_address, joined_ray, raylet_socket
from nas.backend.training_rank import MAX_REASON_CHARACTERS, RankSpec, TrainingJob, stopping_s, train_as_rank
from nas.cli import one_line
from nas.command_log import Announce
from nas.machine import checkpoint_interval_s, cpu_count, lock_dir
from nas.study.failures import RankError, cause_in_ranks
from nas.study.records import RungResult

POLL_S = 0.2
NOTICE_S = 30.0  # without a message, after which missing processors are named
LOST_PROCESSES = 5  # times that all processes are started again
STOPPING_S = 60.0  # for a training that is asked to end, to save its state
UNSTARTED_S = 5.0  # for one that waits for processors
LIBRARY_VARIABLES = ("WANDB_", "MLFLOW_")  # beginnings of what the libraries of --log read from the environment


class RayTrainingFailed(RuntimeError):
    """A training on a cluster broke down; the message is one line with the reason."""


@ray.remote(num_cpus=0)  # type: ignore[call-overload, untyped-decorator]
class Mailbox:
    """What rank 0 tells the command, and whether the command wants the training to end."""

    def __init__(self) -> None:
        self._messages: list[Any] = []
        self._stop = self._failed = self._saved = False

    def post(self, message: Any) -> bool:
        """Keep a message of rank 0 and return whether the training is to end.

        It is the steps trained (int), the seconds of a checkpoint (float), a RungResult's data, or an error's text.
        """
        self._failed |= isinstance(message, str)
        self._messages.append(message)
        return self._stop

    def take(self) -> list[Any]:
        """Return and forget the messages."""
        taken, self._messages = self._messages, []
        return taken

    def stop(self) -> None:
        """Ask the training to save its state and end."""
        self._stop = True

    def note_saved(self) -> None:
        """Note that the training has saved its state and ends."""
        self._saved = True

    def has_saved(self) -> bool:
        """Return whether it has."""
        return self._saved

    def is_over(self) -> bool:
        """Return whether processes that start now have nothing to do."""
        return self._stop or self._failed


@dataclass(frozen=True)
class _Rank:
    """The settings of all processes; relative paths are from the folder."""

    job: TrainingJob
    targets: Path
    checkpoint_s: float
    folder: Path
    mailbox: Any
    environment: dict[str, str] = field(repr=False)  # may hold keys, and Ray may log what it is given


def train_on_cluster(
    job: TrainingJob,
    targets: Path,
    address: str,
    on_steps: Callable[[int], None],
    announce: Announce,
    on_end: Callable[[bool], None],
) -> Iterator[RungResult]:
    """Train in the processes of a cluster, and yield the evaluations; those of an earlier session first.

    Args:
        job: The training. Its folder and all its files have the same paths on every node.
        targets: File of the teachers' outputs.
        address: "auto" or HOST:PORT of the cluster.
        on_steps: Gets the number of steps done, often.
        announce: Shows a line to the user.
        on_end: Gets, at the end, whether the training was under way and has saved its state.

    Raises:
        ClusterError: The cluster cannot be joined.
        RayTrainingFailed: The training broke down, or Ray did.
        KeyboardInterrupt: As it was raised in the caller; the training was asked to save its state.
    """
    job = replace(job, folder=job.folder.resolve(), start=None if job.start is None else job.start.resolve())
    advice = f"nothing stored is lost; resume with --resume {job.folder}"
    with joined_ray(address, job.folder, announce) as scratch:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        mailbox = Mailbox.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        rank = _Rank(job, targets.resolve(), checkpoint_interval_s(), Path.cwd(), mailbox, library_variables())
        with ray_watchdog(head_address(), raylet_socket(), advice):
            fitting = _Fitting(_trainer(rank, scratch))
            try:
                yield from _results(fitting, rank, on_steps, announce)
            except ray.exceptions.RayError as error:
                raise RayTrainingFailed(f"Ray: {one_line(error)[:MAX_REASON_CHARACTERS]}; {advice}") from error
            finally:
                on_end(fitting.end(mailbox, announce))


def _results(
    fitting: _Fitting, rank: _Rank, on_steps: Callable[[int], None], announce: Announce
) -> Iterator[RungResult]:
    """Yield the evaluations as they come; RayTrainingFailed where the training breaks down."""
    known, heard_s, waits = 0, time.monotonic(), False
    while True:
        running = fitting.is_alive()  # what ends now has posted all
        for message in ray.get(rank.mailbox.take.remote()):
            heard_s, waits, fitting.started = time.monotonic(), False, True
            if isinstance(message, str):
                raise RayTrainingFailed(message)
            if isinstance(message, int):
                on_steps(message)
            elif isinstance(message, float):
                fitting.save_s = message
            elif (rung := RungResult.from_dict(message)).rung == known:  # restarted processes repeat earlier ones
                known += 1
                yield rung
        if not running:
            break
        if not waits and time.monotonic() - heard_s > NOTICE_S and (lacking := _lacking(rank.job, fitting.started)):
            announce(f"{lacking}; waiting for them, and Ctrl-C loses nothing")
            waits = True
        time.sleep(POLL_S)
    if fitting.error is not None:
        raise RayTrainingFailed(_reason(fitting.error))


def _lacking(job: TrainingJob, started: bool) -> str | None:
    """Say which processors the training needs and the cluster does not have; None where it has them."""
    kind = "GPU" if job.config.device == "cuda" else "CPU"
    resources = ray.cluster_resources() if started else ray.available_resources()  # a started one has some of them
    present = int(resources.get(kind, 0))
    needed = f"the training needs {job.ranks} {kind}s, and the Ray cluster has {present}"
    return None if present >= job.ranks else f"{needed}{'' if started else ' free ones'}"


def _reason(error: Exception) -> str:
    """Return the reason of a failure on one line: the error of a process, where Ray names one."""
    failures = getattr(error, "worker_failures", {})
    cause = cause_in_ranks(failures) if failures else error
    if isinstance(cause, RankError):
        return str(cause)
    return f"{type(cause).__name__}: {one_line(cause)}"[:MAX_REASON_CHARACTERS]


def library_variables() -> dict[str, str]:
    """Return the environment variables of the command that every process of a cluster gets."""
    return {name: value for name, value in os.environ.items() if name.startswith(LIBRARY_VARIABLES)}


def _trainer(rank: _Rank, scratch: str) -> TorchTrainer:
    from nas.distill.distributed import PATIENCE, backends

    on_gpu = rank.job.config.device == "cuda"
    return TorchTrainer(
        _train_rank,
        train_loop_config={"rank": rank},
        torch_config=TorchConfig(backend=backends(on_gpu), timeout_s=int(PATIENCE.total_seconds())),
        scaling_config=ray.train.ScalingConfig(num_workers=rank.job.ranks, use_gpu=on_gpu),
        run_config=ray.train.RunConfig(
            name="training", storage_path=scratch, failure_config=ray.train.FailureConfig(max_failures=LOST_PROCESSES)
        ),
    )


class _Fitting(threading.Thread):
    """Runs the trainer, while the command reads the mailbox.

    Attributes:
        error: What Ray Train raised at the end.
        started: Whether the training has told anything.
        save_s: Seconds that its last checkpoint took; 0 before the first.
    """

    def __init__(self, trainer: TorchTrainer) -> None:
        super().__init__(daemon=True)
        self._trainer = trainer
        self.error: Exception | None = None
        self.started = False
        self.save_s = 0.0
        self.start()

    def run(self) -> None:
        """Train to the end; keep the error."""
        try:
            self._trainer.fit()
        except Exception as error:
            self.error = error

    def end(self, mailbox: Any, announce: Announce) -> bool:
        """Let the training save its state and end, if it still runs, and return whether it has saved it.

        Ray must not be left before.
        """
        if not self.is_alive():
            return False
        with suppress(ray.exceptions.RayError):
            ray.get(mailbox.stop.remote())
        limit_s = stopping_s(self.save_s, STOPPING_S) if self.started else UNSTARTED_S
        self.join(limit_s)
        if self.started and self.is_alive():
            announce(f"the training did not end within {limit_s:.0f} s: what it has saved is its last checkpoint")
        with suppress(ray.exceptions.RayError):
            return bool(ray.get(mailbox.has_saved.remote()))
        return False


def _train_rank(config: dict[str, Any]) -> None:
    """Train one rank; this is all that a process of the cluster does."""
    from nas.backend.diagnosis import rank_error
    from nas.distill import distributed
    from nas.distill.rungs import TrainingStopped

    rank: _Rank = config["rank"]
    with suppress(OSError):  # a node may lack it, where all paths are absolute
        os.chdir(rank.folder)
    os.environ.update(rank.environment)
    distributed.limit_gpu_waits()
    context = ray.train.get_context()
    first = context.get_world_rank() == 0
    is_over = ray.get(rank.mailbox.is_over.remote()) if first else False
    if distributed.from_rank_0(is_over):
        return
    stop = threading.Event()

    def post(message: Any) -> None:
        if first and ray.get(rank.mailbox.post.remote(message)):
            stop.set()

    device = get_device()
    spec = RankSpec(
        job=rank.job,
        rank=context.get_world_rank(),
        targets=rank.targets,
        lock_dir=lock_dir(),
        checkpoint_s=rank.checkpoint_s,
        threads=max(1, cpu_count() // context.get_local_world_size()),
        gpus=None,  # Ray has chosen them
        meeting_point=Path(),  # Ray Train has its own
        local_rank=device.index or 0,
    )
    try:
        post(0)
        for result in train_as_rank(spec, post, stop.is_set, post):
            if result is not None:
                post(result.to_dict())
    except TrainingStopped:
        if first:
            ray.get(rank.mailbox.note_saved.remote())
        return
    except Exception as error:
        failure = rank_error(error, rank.job.config.device)
        if not failure.lost_other or rank.job.ranks == 1:
            ray.get(rank.mailbox.post.remote(str(failure)))
        raise failure from error
