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
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from nas.backend.teacher_gpus import gpus_of_rank
from nas.backend.training_rank import RankSpec, TrainingJob, remove_checkpoint, stopping_s, train_as_rank
from nas.machine import checkpoint_interval_s, cpu_count, lock_dir
from nas.measure.allocator import MALLOC_SETTINGS
from nas.scratch import scratch_folder
from nas.study.config import DistillConfig
from nas.study.failures import Failure, RankError, cause_in_ranks
from nas.study.records import RungResult

STOPPING_S = 30.0  # for a training that is asked to end, to end its step and save its state
CAUSE_S = 10.0  # for the rank that was at fault to say so, after others have lost it
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
                        job, senders = self._prepare(waiting.pop(0), slots.pop(0), meeting_point)
                        running.append(job)  # before its processes start: an interruption meanwhile ends them, too
                        with ExitStack() as stack, _blocked_signals():
                            for sender in senders:
                                stack.enter_context(sender)
                            job.start()
                    ready = wait([receiver for job in running for receiver in job.receivers])
                    for job in [job for job in running if not job.receivers.keys().isdisjoint(ready)]:
                        progress = job.receive(ready)
                        if progress.ended:
                            running.remove(job)
                            slots.append(job.slot)
                        yield progress
                        if progress.ended and progress.reason is None:
                            remove_checkpoint(progress.job)
            finally:
                self.saved = _stop(running)

    def _prepare(self, job: TrainingJob, slot: int, meeting_point: Path) -> tuple[_RunningJob, list[Connection]]:
        """Return a job whose processes are to be started, and the ends of their pipes that this process closes then."""
        for name, value in MALLOC_SETTINGS.items():
            os.environ.setdefault(name, value)
        context = multiprocessing.get_context("spawn")
        specs = self._specs(job, slot, meeting_point)
        pipes = [context.Pipe(duplex=False) for _ in specs]
        processes = [
            context.Process(target=_train_rank, args=(spec, sender), daemon=True)
            for spec, (_, sender) in zip(specs, pipes, strict=True)
        ]
        receivers = {receiver: rank for rank, (receiver, _) in enumerate(pipes)}
        return _RunningJob(slot, processes, receivers, TrainingProgress(job)), [sender for _, sender in pipes]

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
    """The processes of a job, and the progress that rank 0 has sent so far.

    Args:
        slot: Its slot of the pool.
        processes: One for each rank.
        receivers: The rank that each pipe's messages come from; of the ranks that have not ended.
        progress: So far.
    """

    slot: int
    processes: list[Any]
    receivers: dict[Connection, int]
    progress: TrainingProgress

    def start(self) -> None:
        """Start all processes."""
        for process in self.processes:
            process.start()

    @property
    def started(self) -> list[Any]:
        """Return the processes that have been started: not all where an interruption came meanwhile."""
        return [process for process in self.processes if process.pid is not None]

    def receive(self, ready: Sequence[Any]) -> TrainingProgress:
        """Return the progress after a message of each pipe that is ready."""
        errors = self._take(ready)
        if errors:
            self._end(str(self._cause(errors)))
        elif 0 not in self.receivers.values():
            self._end(None)
        return self.progress

    def _take(self, ready: Sequence[Any]) -> dict[int, RankError]:
        """Take a message of each pipe that is ready, see `_train_rank`; return the errors by rank."""
        errors: dict[int, RankError] = {}
        for receiver, rank in [item for item in self.receivers.items() if item[0] in ready]:
            try:
                message = receiver.recv()
            except EOFError:
                self.processes[rank].join()
                reason = _exit_reason(self.processes[rank].exitcode)
                message = RankError(Failure.LOST_WORKER, reason, lost_other=False, at_s=time.time())
            if isinstance(message, RankError):
                errors[rank] = message
            elif message is not None:
                self._advance(message)
            if message is None or rank in errors:
                del self.receivers[receiver]
                receiver.close()
        return errors

    def _cause(self, errors: dict[int, RankError]) -> RankError:
        """Return the error that ended the job; the others may come after those of ranks that lost their connections."""
        while (cause := cause_in_ranks(errors)).lost_other and self.receivers:
            if not (ready := wait(list(self.receivers), CAUSE_S)):
                break
            errors |= self._take(ready)
        return cause

    def _advance(self, reached: int | float | RungResult) -> None:
        p = self.progress
        if isinstance(reached, RungResult):
            self.progress = replace(p, rungs=(*p.rungs, reached), steps=max(p.steps, reached.steps))
        elif isinstance(reached, float):
            self.progress = replace(p, save_s=reached)
        else:
            self.progress = replace(p, steps=reached)

    def _end(self, reason: str | None) -> None:
        """End all processes; those of a training that failed would wait for the rank that did."""
        if reason is not None:
            self.kill()
        for process in self.processes:
            process.join()
        for receiver in self.receivers:
            receiver.close()
        self.progress = replace(self.progress, ended=True, reason=reason)

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


def _train_rank(spec: RankSpec, sender: Connection) -> None:
    """Train one rank of a job; this is all that a process of the pool does.

    Rank 0 sends the steps trained (int), often, the seconds of each checkpoint (float), and each RungResult. Each rank
    sends None or a RankError at the end.
    """
    if spec.gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = spec.gpus  # before anything initializes CUDA
    end_with_parent()
    try:
        _train(spec, sender)
    except Exception as error:
        from nas.backend.diagnosis import rank_error
        from nas.distill.rungs import TrainingStopped

        stopped = isinstance(error, TrainingStopped)
        failure = rank_error(error, spec.job.config.device)
        sender.send(None if stopped and spec.rank else failure)  # rank 0 may still be saving the state
        sys.exit(STATE_SAVED if stopped else 1)
    sender.send(None)


def _train(spec: RankSpec, sender: Connection) -> None:
    from nas.distill import distributed

    job = spec.job
    ranks = (
        distributed.process_group(spec.rank, job.ranks, spec.meeting_point, job.config.device)
        if job.ranks > 1
        else nullcontext()
    )
    with ranks:
        send = sender.send if spec.rank == 0 else lambda message: None
        for result in train_as_rank(spec, send, on_saved=send):
            if result is not None:
                send(result)
