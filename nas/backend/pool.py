"""Train several candidates at a time on this machine, each in processes of its own.

A training leaves checkpoints, and the same job continues from there. A training that is asked to end, by SIGTERM or by
closing the pool, saves its state first; a killed one loses the steps after its last checkpoint. Its memory and its
state on the device end with its processes, which end with this process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from nas.backend.teacher_gpus import gpus_of_rank
from nas.backend.training_rank import (
    MAX_REASON_CHARACTERS,
    RankSpec,
    TrainingJob,
    remove_checkpoint,
    stopping_s,
    train_as_rank,
)
from nas.cli import one_line
from nas.machine import checkpoint_interval_s, cpu_count, lock_dir
from nas.measure.allocator import MALLOC_SETTINGS
from nas.scratch import scratch_folder
from nas.study.config import DistillConfig
from nas.study.records import RungResult

STOPPING_S = 30.0  # for a training that is asked to end, to end its step and save its state
STATE_SAVED = 3  # exit code of a process that has ended because it was asked to


@dataclass(frozen=True)
class TrainingProgress:
    """The progress of a job.

    Args:
        job: The job.
        steps: Steps trained so far.
        rungs: Results so far.
        ended: Whether the job has ended.
        reason: Reason of its failure; None where it did not fail.
        save_s: Seconds that its last checkpoint took; 0 before the first.
    """

    job: TrainingJob
    steps: int = 0
    rungs: tuple[RungResult, ...] = ()
    ended: bool = False
    reason: str | None = None
    save_s: float = 0.0


class TrainingPool:
    """A pool that runs `workers` jobs at a time.

    On CUDA a job uses as many of `gpus` as it has ranks, and those that its live teachers have to themselves.

    Args:
        targets: File of the teachers' outputs, as `nas.cache.open_targets` writes it.
        workers: Jobs at a time.
        gpus: Names of the devices to use, as CUDA_VISIBLE_DEVICES has them; empty on a CPU.

    Attributes:
        saved: Whether trainings were under way when the pool was closed, and all have saved their state.
    """

    def __init__(self, targets: Path, workers: int, gpus: Sequence[str] = ()) -> None:
        self._targets, self._workers, self._gpus = targets.resolve(), workers, gpus
        self._lock_dir, self._checkpoint_s = lock_dir(), checkpoint_interval_s()
        self.saved = False

    def run(self, jobs: Sequence[TrainingJob]) -> Generator[TrainingProgress, None, None]:
        """Yield the progress of the jobs, often; the last progress of a job has `ended` set.

        A job's checkpoint is removed when the caller has kept the result and asks for the next progress. Closing the
        iterator lets all trainings save their state and ends their processes; running the same jobs again continues
        from there.
        """
        if self._gpus:
            from nas.measure.memory import release_cached

            release_cached("cuda")  # of this process's teachers and of timing precisions: the trainings need it
        waiting, slots = list(jobs), list(range(self._workers))
        running: list[_RunningJob] = []
        with scratch_folder("nas-pool-") as scratch:
            try:
                while waiting or running:
                    while waiting and slots:
                        meeting_point = scratch / f"job-{len(waiting)}"
                        job, sender = self._prepare(waiting.pop(0), slots.pop(0), meeting_point)
                        running.append(job)  # before its processes start: an interruption meanwhile ends them, too
                        with sender, _blocked_signals():
                            job.start()
                    ready = wait([source for job in running for source in job.sources])
                    for job in [job for job in running if not job.sources.isdisjoint(ready)]:
                        progress = job.receive(ready)
                        if progress.ended:
                            running.remove(job)
                            slots.append(job.slot)
                        yield progress
                        if progress.ended and progress.reason is None:
                            remove_checkpoint(progress.job)
            finally:
                self.saved = _stop(running)

    def _prepare(self, job: TrainingJob, slot: int, meeting_point: Path) -> tuple[_RunningJob, Connection]:
        """Return a job whose processes are to be started, and the end of their pipe that this process closes then."""
        for name, value in MALLOC_SETTINGS.items():
            os.environ.setdefault(name, value)
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        processes = [
            context.Process(target=_train_rank, args=(spec, None if spec.rank else sender), daemon=True)
            for spec in self._specs(job, slot, meeting_point)
        ]
        return _RunningJob(slot, processes, receiver, TrainingProgress(job)), sender

    def _specs(self, job: TrainingJob, slot: int, meeting_point: Path) -> list[RankSpec]:
        """Return the settings of each process of a job."""
        job = job.resolved()
        specs = []
        for rank in range(job.ranks):
            devices = () if job.live is None else job.live.devices
            gpus, teachers = gpus_of_rank(self._gpus, slot, rank, job.ranks, devices)
            specs.append(
                RankSpec(
                    job=job if job.live is None else replace(job, live=replace(job.live, devices=teachers)),
                    rank=rank,
                    targets=self._targets,
                    lock_dir=self._lock_dir,
                    checkpoint_s=self._checkpoint_s,
                    threads=max(1, cpu_count() // (self._workers * job.ranks)),
                    gpus=gpus,
                    meeting_point=meeting_point,
                    local_rank=rank,
                )
            )
        return specs


@dataclass
class _RunningJob:
    """The processes of a job, and the progress that rank 0 has sent so far."""

    slot: int
    processes: list[Any]
    receiver: Connection
    progress: TrainingProgress
    _finished_ranks: set[int] = field(default_factory=set)  # sentinels of ranks that ended without an error

    def start(self) -> None:
        """Start all processes."""
        for process in self.processes:
            process.start()

    @property
    def started(self) -> list[Any]:
        """Return the processes that have been started: not all where an interruption came meanwhile."""
        return [process for process in self.processes if process.pid is not None]

    @property
    def sources(self) -> set[Any]:
        """Return the objects to wait for: the messages of rank 0, and the ends of the other ranks."""
        return {self.receiver, *(p.sentinel for p in self.processes[1:] if p.sentinel not in self._finished_ranks)}

    def receive(self, ready: Sequence[Any]) -> TrainingProgress:
        """Return the progress after one message of rank 0, or after the end of another rank."""
        if self.receiver in ready:
            return self._update(*self._message())
        for process in self.processes[1:]:
            if process.sentinel in ready and process.sentinel in self.sources:
                process.join()
                if process.exitcode not in (0, STATE_SAVED):
                    return self._update(ended=True, reason=_exit_reason(process.exitcode))
                self._finished_ranks.add(process.sentinel)
        return self.progress

    def _message(self) -> tuple[Any, bool, str | None]:
        """Return a message of rank 0, see `_train_rank`, whether it has ended, and the reason of a failure."""
        try:
            message = self.receiver.recv()
        except EOFError:
            self.processes[0].join()
            return None, True, _exit_reason(self.processes[0].exitcode)
        ended = message is None or isinstance(message, str)
        return (None, True, message) if ended else (message, False, None)

    def _update(
        self, reached: int | float | RungResult | None = None, ended: bool = False, reason: str | None = None
    ) -> TrainingProgress:
        p = self.progress
        if isinstance(reached, RungResult):
            p = replace(p, rungs=(*p.rungs, reached), steps=max(p.steps, reached.steps))
        elif isinstance(reached, float):
            p = replace(p, save_s=reached)
        elif reached is not None:
            p = replace(p, steps=reached)
        if ended:
            if reason is not None:
                self.kill()  # the other ranks would wait for the one that failed
            for process in self.processes:
                process.join()
            self.receiver.close()
        self.progress = replace(p, ended=ended, reason=reason)
        return self.progress

    def kill(self) -> None:
        """End all processes."""
        for process in self.started:
            process.kill()
        for process in self.started:
            process.join()


def _stop(jobs: Sequence[_RunningJob]) -> bool:
    """Ask the processes of jobs to save their state and end, and kill those that do not; return whether all have."""
    try:
        for job in jobs:
            for process in job.started:
                process.terminate()
        asked_s = time.monotonic()
        for job in jobs:
            until = asked_s + stopping_s(job.progress.save_s, STOPPING_S)
            for process in job.started:
                process.join(max(0.0, until - time.monotonic()))
    finally:
        for job in jobs:
            job.kill()
    return bool(jobs) and all(job.processes[0].exitcode == STATE_SAVED for job in jobs)


def recipe_here(recipe: DistillConfig, gpus: Sequence[str]) -> DistillConfig:
    """Return the recipe of a study with the processes that a training takes on this machine.

    Ranks share each batch, perhaps because no GPU holds the whole one. Where GPUs are fewer, one of them takes it in as
    many parts: the effective batch stays, but BatchNorm sees each part alone. On a CPU one process takes it whole,
    because ranks there would share the memory.

    Args:
        recipe: The study's.
        gpus: Names of the devices to use; empty on a CPU.
    """
    if not gpus:
        return replace(recipe, ranks=1)
    if len(gpus) >= recipe.ranks:
        return recipe
    return replace(recipe, ranks=1, accumulate=recipe.accumulate * recipe.ranks)


def visible_gpus() -> tuple[str, ...]:
    """Return the names of this process's GPUs, as CUDA_VISIBLE_DEVICES has them."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(visible.split(",")) if visible else tuple(str(i) for i in range(torch.cuda.device_count()))


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block the signals of a terminal in the processes that the body starts.

    Ctrl-C and a closed terminal reach the whole group. The pool asks the processes to save their state and end.
    """
    resource_tracker.ensure_running()  # the first process would start it, and it unblocks Ctrl-C when it has started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _exit_reason(code: int) -> str:
    if code < 0:
        return f"the process was ended by {signal.Signals(-code).name}"
    return f"the process ended with exit code {code}"


def end_with_parent() -> None:
    """End this process of `multiprocessing` as soon as its parent has ended, also where the parent was killed."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _train_rank(spec: RankSpec, sender: Connection | None) -> None:
    """Train one rank of a job; this is all that a process of the pool does.

    Rank 0 has the sender. It sends the steps trained (int), often, the seconds of each checkpoint (float), each
    RungResult, and None at the end; or the text of an error.
    """
    if spec.gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = spec.gpus  # before anything initializes CUDA
    end_with_parent()
    try:
        _train(spec, sender)
        if sender is not None:
            sender.send(None)
    except Exception as error:
        from nas.distill.rungs import TrainingStopped

        if sender is not None:
            sender.send(f"{type(error).__name__}: {one_line(error)}"[:MAX_REASON_CHARACTERS])
        if isinstance(error, TrainingStopped):
            sys.exit(STATE_SAVED)
        if sender is None:
            raise


def _train(spec: RankSpec, sender: Connection | None) -> None:
    from nas.distill import distributed

    job = spec.job
    ranks = (
        distributed.process_group(spec.rank, job.ranks, spec.meeting_point, job.config.device)
        if job.ranks > 1
        else nullcontext()
    )
    with ranks:
        send = sender.send if sender is not None else lambda message: None
        for result in train_as_rank(spec, send, on_saved=send):
            if sender is not None:
                sender.send(result)
