"""Processes of this machine, one for each rank of a training; they end with the process that has started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from nas.backend.teacher_gpus import gpus_of_ranks
from nas.backend.training_rank import RankSpec, TrainingFailed, TrainingJob, stopping_s, train_as_rank
from nas.local_workers import visible_gpus
from nas.machine import checkpoint_interval_s, cpu_count, lock_dir
from nas.measure.allocator import MALLOC_SETTINGS
from nas.scratch import scratch_folder
from nas.study.failures import Failure, RankError, cause_in_ranks
from nas.study.records import RungResult

STOPPING_S = 30.0  # for a training that is asked to end, to end its step and save its state
CAUSE_S = 10.0  # for the rank that was at fault to say so, after others have lost it
STATE_SAVED = 3  # exit code of a process that has ended because it was asked to

Send = Callable[[Any], None]
TrainRank = Callable[[Any, Send, Callable[[], bool]], None]


class LocalRanks:
    """Processes that each call `train` with settings of their own, see `nas.distill.distributed`.

    `train` also gets a function that sends an object to this process, and one that tells whether it is asked to end:
    then it saves its state and raises TrainingStopped.

    Args:
        train: A function of a module.
        settings: Those of each rank.
        device: What the ranks train on, for the reasons of their errors.
        environment: Variables that the processes have beside those of this one.
    """

    def __init__(
        self, train: TrainRank, settings: Sequence[Any], device: str, environment: Mapping[str, str] | None = None
    ) -> None:
        for name, value in MALLOC_SETTINGS.items():
            os.environ.setdefault(name, value)
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._processes: list[Any] = []
        self._receivers: dict[Connection, int] = {}  # of the ranks that have not ended
        try:
            with _blocked_signals():
                for rank, own in enumerate(settings):
                    receiver, sender = context.Pipe(duplex=False)
                    arguments = (train, own, device, dict(environment or {}), sender, self._stop)
                    process = context.Process(target=_run, args=arguments, daemon=True)
                    self._processes.append(process)
                    self._receivers[receiver] = rank
                    with sender:
                        process.start()
        except BaseException:
            self.end(0.0)
            raise

    def messages(self) -> Iterator[Any]:
        """Yield what the ranks send, until all have ended; raise the RankError of the rank that was at fault."""
        while self._receivers:
            for receiver in wait(list(self._receivers)):
                assert isinstance(receiver, Connection)
                rank, message = self._receive(receiver)
                if isinstance(message, RankError):
                    cause = self._cause({rank: message})
                    self._kill()  # the others would wait for this one
                    raise cause
                if message is not None:
                    yield message

    def end(self, limit_s: float) -> bool:
        """Ask the processes to save their state and end, and kill those that do not; return whether rank 0 has.

        Args:
            limit_s: Seconds in which they have to.
        """
        self._stop.set()
        until_s = time.monotonic() + limit_s
        try:
            for process in self._started:
                process.join(max(0.0, until_s - time.monotonic()))
        finally:
            self._kill()
        return any(process.exitcode == STATE_SAVED for process in self._started[:1])

    @property
    def _started(self) -> list[Any]:
        """Return the processes that were started: not all where an interruption came meanwhile."""
        return [process for process in self._processes if process.pid is not None]

    def _kill(self) -> None:
        for process in self._started:
            process.kill()
        for process in self._started:
            process.join()

    def _receive(self, receiver: Connection) -> tuple[int, Any]:
        """Return the next message of a rank: None at its end, a RankError where it failed."""
        rank = self._receivers[receiver]
        try:
            message = receiver.recv()
        except EOFError:
            self._processes[rank].join()
            reason = _exit_reason(self._processes[rank].exitcode)
            message = RankError(Failure.LOST_WORKER, reason, lost_other=False, at_s=time.time())
        if message is None or isinstance(message, RankError):
            del self._receivers[receiver]
            receiver.close()
        return rank, message

    def _cause(self, errors: dict[int, RankError]) -> RankError:
        """Return the error that ended the training; the others may come after those of ranks that lost another one."""
        while (cause := cause_in_ranks(errors)).lost_other and self._receivers:
            if not (ready := wait(list(self._receivers), CAUSE_S)):
                break
            received = [self._receive(receiver) for receiver in ready if isinstance(receiver, Connection)]
            errors |= {rank: message for rank, message in received if isinstance(message, RankError)}
        return cause


def _exit_reason(code: int) -> str:
    if code < 0:
        return f"the process was ended by {signal.Signals(-code).name}"
    return f"the process ended with exit code {code}"


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block the signals of a terminal and of a batch system in the processes that the body starts.

    They reach the whole group. This process asks the others to save their state and end.
    """
    resource_tracker.ensure_running()  # the first process would start it, and it unblocks Ctrl-C when it has started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(
    train: TrainRank, settings: Any, device: str, environment: Mapping[str, str], sender: Connection, stop: Event
) -> None:
    """Be one of the processes: the messages of `train`, then None or a RankError."""
    os.environ.update(environment)  # before anything initializes CUDA
    end_with_parent()
    from nas.backend.diagnosis import rank_error  # imports torch
    from nas.distill.rungs import TrainingStopped

    try:
        train(settings, sender.send, stop.is_set)
    except TrainingStopped:
        with suppress(OSError):
            sender.send(None)
        sys.exit(STATE_SAVED)
    except Exception as error:
        sender.send(rank_error(error, device))
        sys.exit(1)
    sender.send(None)


def end_with_parent() -> None:
    """End this process when the one that has started it does, however that ends."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def train_here(
    job: TrainingJob, targets: Path, on_steps: Callable[[int], None], on_end: Callable[[bool], None]
) -> Generator[RungResult, None, None]:
    """Train in processes of this machine, and yield the evaluations; those of an earlier session first.

    Args:
        job: The training.
        targets: File of the teachers' outputs.
        on_steps: Gets the number of steps done, often.
        on_end: Gets, at the end, whether the training was under way and has saved its state.

    Raises:
        TrainingFailed: The training broke down.
        KeyboardInterrupt: As it was raised in the caller; the training was asked to save its state.
    """
    job, device, gpus = job.resolved(), job.config.device, visible_gpus()
    devices = () if job.live is None else job.live.devices
    visible, of_teachers = gpus_of_ranks(gpus, job.ranks, devices, device == "cuda")
    with scratch_folder("nas-train-") as scratch:
        specs = [
            RankSpec(
                job=job if job.live is None else replace(job, live=replace(job.live, devices=of_teachers[rank])),
                rank=rank,
                targets=targets.resolve(),
                lock_dir=lock_dir(),
                checkpoint_s=checkpoint_interval_s(),
                threads=max(1, cpu_count() // job.ranks),
                local_rank=rank,
            )
            for rank in range(job.ranks)
        ]
        settings = [(spec, scratch / "ranks") for spec in specs]
        ranks = LocalRanks(train_in_group, settings, device, {"CUDA_VISIBLE_DEVICES": visible} if gpus else None)
        save_s = 0.0
        try:
            for message in ranks.messages():
                if isinstance(message, RungResult):
                    yield message
                elif isinstance(message, float):
                    save_s = message
                else:
                    on_steps(message)
        except RankError as error:
            raise TrainingFailed(str(error)) from None
        finally:
            on_end(ranks.end(stopping_s(save_s, STOPPING_S)))


def train_in_group(settings: tuple[RankSpec, Path | str], send: Send, should_stop: Callable[[], bool]) -> None:
    """Train one rank; rank 0 sends the steps trained, often, the seconds of each checkpoint, and each RungResult.

    Args:
        settings: The rank's, and where the ranks meet, see `nas.distill.distributed.process_group`.
        send: Takes what rank 0 sends.
        should_stop: Tells whether the training is to save its state and raise TrainingStopped.
    """
    import torch

    from nas.distill.distributed import process_group

    (spec, meeting_point), ranks = settings, settings[0].job.ranks
    device, own = spec.job.config.device, send if spec.rank == 0 else lambda message: None
    if device == "cuda":
        torch.cuda.set_device(spec.local_rank)  # before NCCL
    with process_group(spec.rank, ranks, meeting_point, device) if ranks > 1 else nullcontext():
        for result in train_as_rank(spec, own, should_stop, own):
            if result is not None:
                own(result)
