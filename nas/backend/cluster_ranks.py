"""Train one model in tasks of a Ray cluster, one for each rank.

Where a process or a node is lost, all ranks start again as soon as the cluster has processors for them, and continue
from the last checkpoint. A training that breaks down by itself is not tried again.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.util import get_node_ip_address, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from nas.backend.cluster import ray_watchdog
from nas.backend.local_ranks import train_in_group
from nas.backend.ray_session import head_address, joined_ray, raylet_socket
from nas.backend.training_rank import MAX_REASON_CHARACTERS, RankSpec, TrainingFailed, TrainingJob, stopping_s
from nas.cli import one_line
from nas.command_log import Announce
from nas.machine import checkpoint_interval_s, cpu_count, lock_dir
from nas.study.failures import RankError, cause_in_ranks
from nas.study.records import RungResult

POLL_S = 0.2
NOTICE_S = 30.0  # of waiting for processors, after which the missing ones are named
LOST_PROCESSES = 5  # times that all ranks are started again
STOPPING_S = 60.0  # for a training that is asked to end, to save its state
CAUSE_S = 10.0  # for the rank that was at fault to say so, after others have lost it
LIBRARY_VARIABLES = ("WANDB_", "MLFLOW_")  # beginnings of what the libraries of --log read from the environment


@ray.remote(num_cpus=0)  # type: ignore[call-overload, untyped-decorator]
class Mailbox:
    """Where the ranks find one another, what rank 0 tells the command, and whether the command wants them to end."""

    def __init__(self, ranks: int) -> None:
        self._ranks, self._nodes, self._address = ranks, list[str](), ""
        self._met = asyncio.Event()
        self._messages: list[Any] = []
        self._stop = False

    async def meet(self, node_id: str, address: str) -> tuple[str, list[str]]:
        """Return the address at which all ranks join, which rank 0 gives, and their nodes, when all have come."""
        self._nodes.append(node_id)
        self._address = self._address or address
        if len(self._nodes) == self._ranks:
            self._met.set()
        await self._met.wait()
        return self._address, self._nodes

    async def post(self, message: Any) -> bool:
        """Keep a message of rank 0, see `train_in_group`, and return whether the training is to end."""
        self._messages.append(message)
        return self._stop

    async def take(self) -> list[Any]:
        """Return and forget the messages."""
        taken, self._messages = self._messages, []
        return taken

    async def stop(self) -> None:
        """Ask the training to save its state and end."""
        self._stop = True


@dataclass(frozen=True)
class ClusterRank:
    """The settings of one rank; relative paths are from the folder, and its node completes `spec`."""

    spec: RankSpec
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
) -> Generator[RungResult, None, None]:
    """Train in processes of a cluster, and yield the evaluations; those of an earlier session first.

    Args:
        job: The training. Its folder and all its files have the same paths on every node.
        targets: File of the teachers' outputs.
        address: "auto" or HOST:PORT of the cluster.
        on_steps: Gets the number of steps done, often.
        announce: Shows a line to the user.
        on_end: Gets, at the end, whether the training was under way and has saved its state.

    Raises:
        ClusterError: The cluster cannot be joined.
        TrainingFailed: The training broke down, or Ray did.
        KeyboardInterrupt: As it was raised in the caller; the training was asked to save its state.
    """
    job, known = job.resolved(), 0
    advice = f"nothing stored is lost; resume with --resume {job.folder}"
    with joined_ray(address, job.folder, announce), ray_watchdog(head_address(), raylet_socket(), advice):
        ranks = _ClusterRanks(job, targets.resolve(), announce)
        try:
            for message in ranks.messages():
                if isinstance(message, int):
                    on_steps(message)
                elif isinstance(message, float):
                    ranks.save_s = message
                elif message.rung == known:  # restarted ranks repeat earlier ones
                    known += 1
                    yield message
        except ray.exceptions.RayError as error:
            raise TrainingFailed(f"Ray: {one_line(error)[:MAX_REASON_CHARACTERS]}; {advice}") from error
        finally:
            on_end(ranks.end())


class _ClusterRanks:
    """The ranks of a training, started again where one is lost.

    Attributes:
        save_s: Seconds that the last checkpoint took; 0 before the first.
    """

    def __init__(self, job: TrainingJob, targets: Path, announce: Announce) -> None:
        self._job, self._targets, self._announce = job, targets, announce
        self._kind = "GPU" if job.config.device == "cuda" else "CPU"
        self._running: dict[Any, int] = {}  # task -> rank
        self._group: Any = None
        self._mailbox: Any = None
        self._saved = False
        self.save_s = 0.0

    def messages(self) -> Iterator[Any]:
        """Yield what rank 0 tells, until all ranks have ended; TrainingFailed where the training breaks down."""
        for tries_left in reversed(range(1 + LOST_PROCESSES)):
            self._start()
            errors: dict[int, Exception] = {}
            while self._running and not errors:
                errors = self._ended(POLL_S)
                yield from ray.get(self._mailbox.take.remote())
            if not errors:
                return
            cause = cause_in_ranks(errors)
            if not _is_its_own(cause):
                cause = cause_in_ranks(errors | self._ended(CAUSE_S))
            self._kill()
            reason = str(cause) if isinstance(cause, RankError) else f"{type(cause).__name__}: {one_line(cause)}"
            if _is_its_own(cause) or not tries_left:
                raise TrainingFailed(reason[:MAX_REASON_CHARACTERS])
            self._announce(f"a process is lost ({reason[:MAX_REASON_CHARACTERS]}); all start again from a checkpoint")

    def end(self) -> bool:
        """Let the training save its state and end, if it still runs, and return whether it has saved it."""
        if self._running:
            limit_s = stopping_s(self.save_s, STOPPING_S)
            with suppress(ray.exceptions.RayError):
                ray.get(self._mailbox.stop.remote())
                self._ended(limit_s)
            if self._running:
                self._announce(f"the training did not end within {limit_s:.0f} s: its last checkpoint is kept")
        with suppress(ray.exceptions.RayError):
            self._kill()
        return self._saved

    def _start(self) -> None:
        """Wait for processors, and start a rank on each."""
        count, on_gpu = self._job.ranks, self._kind == "GPU"
        self._group = placement_group([{self._kind: 1}] * count)
        notice_s: float | None = time.monotonic() + NOTICE_S
        while not self._group.wait(POLL_S):
            if notice_s is not None and time.monotonic() > notice_s:
                free = int(ray.available_resources().get(self._kind, 0))
                lacking = f"the training needs {count} {self._kind}s, and the Ray cluster has {free} free ones"
                self._announce(f"{lacking}; waiting for them, and Ctrl-C loses nothing")
                notice_s = None
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox = Mailbox.options(scheduling_strategy=here).remote(count)  # type: ignore[attr-defined]
        for rank in range(count):
            spec = RankSpec(self._job, rank, self._targets, Path(), checkpoint_interval_s(), 1, 0)
            own = ClusterRank(spec, Path.cwd(), self._mailbox, library_variables())
            task = _train_rank.options(
                num_cpus=int(not on_gpu),
                num_gpus=int(on_gpu),
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, rank),
            )
            self._running[task.remote(own)] = rank

    def _ended(self, limit_s: float) -> dict[int, Exception]:
        """Wait for all ranks, at most `limit_s`, and return the errors of those that have ended."""
        tasks = [*self._running]
        ended = ray.wait(tasks, num_returns=len(tasks), timeout=limit_s)[0] if tasks else []
        found = {self._running.pop(task): _outcome(task) for task in ended}
        self._saved |= found.get(0) is True
        return {rank: error for rank, error in found.items() if isinstance(error, Exception)}

    def _kill(self) -> None:
        for task in self._running:
            ray.cancel(task, force=True)
        self._ended(CAUSE_S)
        self._running.clear()
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None


def _outcome(task: Any) -> Exception | bool:
    """Return what an ended `_train_rank` has returned, or the error of Ray where it could not."""
    outcome: Exception | bool
    try:
        outcome = ray.get(task)
    except ray.exceptions.RayError as lost:
        outcome = lost
    return outcome


def _is_its_own(error: Exception) -> bool:
    """Return whether a training that starts again would meet the error again: no process or node was lost."""
    return not error.lost_other if isinstance(error, RankError) else isinstance(error, ray.exceptions.RayTaskError)


def library_variables() -> dict[str, str]:
    """Return the environment variables of the command that every process of a cluster gets."""
    return {name: value for name, value in os.environ.items() if name.startswith(LIBRARY_VARIABLES)}


@ray.remote(max_retries=0, max_calls=1)  # type: ignore[untyped-decorator]
def _train_rank(own: ClusterRank) -> RankError | bool:
    """Train one rank, and return its error, or whether it has saved its state because it was asked to end."""
    from nas.backend.diagnosis import rank_error
    from nas.distill.rungs import TrainingStopped

    with suppress(OSError):  # a node may lack it, where all paths are absolute
        os.chdir(own.folder)
    os.environ.update(own.environment)
    stop = threading.Event()

    def send(message: Any) -> None:
        if ray.get(own.mailbox.post.remote(message)):
            stop.set()

    try:
        meeting_point, on_node = _meet(own)
        spec = replace(own.spec, lock_dir=lock_dir(), threads=max(1, cpu_count() // on_node))
        train_in_group((spec, meeting_point), send, stop.is_set)
    except TrainingStopped:
        return True
    except Exception as error:
        return rank_error(error, own.spec.job.config.device)
    return False


def _meet(own: ClusterRank) -> tuple[str, int]:
    """Wait for the other ranks, and return the address at which they join and how many of them are on this node."""
    host, address, node_id = get_node_ip_address(), "", ray.get_runtime_context().get_node_id()
    if own.spec.rank == 0:
        with socket.socket() as free:
            free.bind((host, 0))
            address = f"tcp://{host}:{free.getsockname()[1]}"
    meeting_point, nodes = ray.get(own.mailbox.meet.remote(node_id, address))
    return meeting_point, nodes.count(node_id)
