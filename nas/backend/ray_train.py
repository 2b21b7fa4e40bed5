"""Train one model in processes of a Ray cluster, which Ray Train starts and joins into a process group.

Where a node or a process is lost, Ray Train starts all processes again, on the nodes that are left, and they continue
from the last checkpoint. A training that breaks down by itself is not tried again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.backend.cluster import Announce, ClusterError
from nas.backend.pool import MAX_REASON_CHARACTERS, RankSpec, TrainingJob, train_as_rank
from nas.backend.ray_session import joined_ray
from nas.cli import checkpoint_interval_s, cpu_count, lock_dir, one_line
from nas.study.records import RungResult

POLL_S = 0.2
LOST_PROCESSES = 5  # times that all processes are started again
STOPPING_S = 60.0  # for a training that is asked to end, to save its state
PATIENCE_S = 24 * 3600  # of ranks that wait for rank 0, which evaluates and writes alone


class RayTrainingFailed(RuntimeError):
    """A training on a cluster broke down; the message is one line with the reason."""


@ray.remote(num_cpus=0)  # type: ignore[call-overload, untyped-decorator]
class Mailbox:
    """What rank 0 tells the command, and whether the command wants the training to end."""

    def __init__(self) -> None:
        self._messages: list[Any] = []
        self._stop = self._failed = False

    def post(self, message: Any) -> bool:
        """Keep steps trained, a RungResult's data, or the text of an error; return whether the training is to end."""
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

    def is_over(self) -> bool:
        """Return whether processes that start now have nothing to do."""
        return self._stop or self._failed


@dataclass(frozen=True)
class _Rank:
    """The settings of all processes."""

    job: TrainingJob
    targets: Path
    checkpoint_s: float
    mailbox: Any


def train_on_cluster(
    job: TrainingJob, targets: Path, address: str, on_steps: Callable[[int], None], announce: Announce
) -> Iterator[RungResult]:
    """Train in the processes of a cluster, and yield the evaluations; those of an earlier session first.

    Args:
        job: The training. Its folder and all its files have the same paths on every node.
        targets: File of the teachers' outputs.
        address: "auto" or HOST:PORT of the cluster.
        on_steps: Gets the number of steps done, often.
        announce: Shows a line to the user.

    Raises:
        ClusterError: The cluster cannot be joined, or does not have the processors.
        RayTrainingFailed: The training broke down.
        KeyboardInterrupt: As it was raised in the caller; the training has saved its state.
    """
    job = replace(job, folder=job.folder.resolve(), start=None if job.start is None else job.start.resolve())
    with joined_ray(address, job.folder, announce) as scratch:
        _check_room(job)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        mailbox = Mailbox.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        trainer = _trainer(_Rank(job, targets.resolve(), checkpoint_interval_s(), mailbox), scratch)
        fitting = _Fitting(trainer)
        known = 0
        try:
            while True:
                running = fitting.is_alive()
                for message in ray.get(mailbox.take.remote()):
                    if isinstance(message, int):
                        on_steps(message)
                        continue
                    if isinstance(message, str):
                        raise RayTrainingFailed(message)
                    rung = RungResult.from_dict(message)
                    if rung.rung == known:  # processes that start again repeat the earlier ones
                        known += 1
                        yield rung
                if not running:
                    break
                time.sleep(POLL_S)
        except (KeyboardInterrupt, GeneratorExit):
            ray.get(mailbox.stop.remote())
            fitting.join(STOPPING_S)
            raise
        if fitting.error is not None:
            raise RayTrainingFailed(one_line(fitting.error)[:MAX_REASON_CHARACTERS])


def _check_room(job: TrainingJob) -> None:
    """Raise ClusterError for more processes than the cluster has processors for: Ray would wait for them."""
    kind = "GPU" if job.config.device == "cuda" else "CPU"
    present = int(ray.cluster_resources().get(kind, 0))
    if present < job.ranks:
        raise ClusterError(f"--workers: {job.ranks}: the Ray cluster has {present} {kind}s")


def _trainer(rank: _Rank, scratch: str) -> TorchTrainer:
    on_gpu = rank.job.config.device == "cuda"
    return TorchTrainer(
        _train_rank,
        train_loop_config={"rank": rank},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout_s=PATIENCE_S),
        scaling_config=ray.train.ScalingConfig(num_workers=rank.job.ranks, use_gpu=on_gpu),
        run_config=ray.train.RunConfig(
            name="training", storage_path=scratch, failure_config=ray.train.FailureConfig(max_failures=LOST_PROCESSES)
        ),
    )


class _Fitting(threading.Thread):
    """Runs the trainer, while the command reads the mailbox."""

    def __init__(self, trainer: TorchTrainer) -> None:
        super().__init__(daemon=True)
        self._trainer = trainer
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        """Train to the end; keep the error."""
        try:
            self._trainer.fit()
        except Exception as error:
            self.error = error


def _train_rank(config: dict[str, Any]) -> None:
    """Train one rank; this is all that a process of the cluster does."""
    from nas.distill.run import TrainingStopped

    rank: _Rank = config["rank"]
    if ray.get(rank.mailbox.is_over.remote()):
        return
    context, first = ray.train.get_context(), ray.train.get_context().get_world_rank() == 0
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
        for result in train_as_rank(spec, post, stop.is_set):
            post(None if result is None else result.to_dict())
    except TrainingStopped:
        return
    except Exception as error:
        if type(error) is RuntimeError or isinstance(error, torch.distributed.DistError):
            raise  # probably of a rank that is lost, to those that waited for it; gloo has no type of its own
        post(f"{type(error).__name__}: {one_line(error)}"[:MAX_REASON_CHARACTERS])
        raise
