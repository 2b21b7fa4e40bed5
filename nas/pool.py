"""Trains finalists, some at a time, each in a process of its own. What one sends is handed on at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from nas.finals.worker import Places, train
from nas.records import Finalist, RungResult, TrialRecord

# glibc gives large buffers back to the kernel and faults them in again at every training step, unless told not to.
MEMORY = {"MALLOC_TRIM_THRESHOLD_": "2000000000", "MALLOC_MMAP_THRESHOLD_": "2000000000"}


@dataclass(frozen=True)
class Task:
    """A net to be trained with one seed."""

    trial: TrialRecord
    seed: int


@dataclass
class _Post:
    """A process at work, and what it has told so far."""

    task: Task
    slot: int
    process: Any
    pipe: Connection
    told: Finalist = field(repr=False)


class Crew:
    """Works through tasks with `workers` processes at a time; on CUDA each keeps to one of `cards`.

    steps: that each training is to reach. device: name of what trains, for the records.
    """

    def __init__(self, places: Places, steps: int, device: str, workers: int, cards: Sequence[str] = ()) -> None:
        self._places, self._steps, self._device = places, steps, device
        self._workers, self._cards = workers, cards
        self._context = get_context("spawn")

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[Finalist, bool]]:
        """Yields each training with every rung it reaches, and whether it is over: at its end, or failed for a reason.

        Closing the iterator ends the processes; the next run goes on from their checkpoints.
        """
        waiting, posts, slots = list(tasks), dict[Connection, _Post](), list(range(self._workers))
        try:
            while waiting or posts:
                while waiting and slots:
                    post = self._start(waiting.pop(0), slots.pop(0))
                    posts[post.pipe] = post
                for pipe in wait(list(posts)):
                    post = posts[pipe]  # type: ignore[index]
                    over = self._hear(post)
                    if over:
                        del posts[post.pipe]
                        slots.append(post.slot)
                    yield post.told, over
        finally:
            for post in posts.values():
                post.process.kill()
            for post in posts.values():
                post.process.join()

    def _start(self, task: Task, slot: int) -> _Post:
        for name, value in MEMORY.items():
            os.environ.setdefault(name, value)
        ours, theirs = self._context.Pipe(duplex=False)
        card = self._cards[slot % len(self._cards)] if self._cards else None
        words = (theirs, task.trial.to_dict(), task.seed, self._places, card)
        process = self._context.Process(target=train, args=words, daemon=True)
        with ctrl_c_is_ours():
            process.start()
        theirs.close()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return _Post(task, slot, process, ours, Finalist(task.trial.number, task.seed, self._steps, now, self._device))

    def _hear(self, post: _Post) -> bool:
        """Takes what a process sent; whether that was the last."""
        try:
            word = post.pipe.recv()
        except EOFError:
            post.process.join()
            word = how_it_ended(post.process.exitcode)
        if isinstance(word, dict):
            post.told = replace(post.told, rungs=(*post.told.rungs, RungResult.from_dict(word)))
            return False
        post.told = replace(post.told, reason=word)
        post.process.join()
        post.pipe.close()
        return True


@contextmanager
def ctrl_c_is_ours() -> Iterator[None]:
    """Ctrl-C reaches the whole group: what is started here is deaf to it, and ended by us."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def how_it_ended(code: int) -> str:
    """A process, by its exit code, in words."""
    if code < 0:
        return f"the process was ended by {signal.Signals(-code).name}"
    return f"the process ended with exit code {code}"
