"""Keep measurements off the devices of a training: one rank's device, or those of all ranks at once.

A training holds a lease on its devices for a few steps, or about a second, at a time, so that a waiting measurement can
take them in between.

Ranks wait for each other in every step. If each took its own device when it liked, two trainings and two measurements
could wait for each other forever: the first training has GPU 0 and waits for GPU 1, behind a measurement that waits for
the second training, which has GPU 1 and waits for GPU 0 behind another measurement. Two ranks on one CPU need only one
measurement for that. So all ranks meet first, holding nothing. Then every device is taken once, in an order that is the
same for all trainings; measurements hold one device. Nothing waits for a device that comes earlier in that order than
one that it holds, so somebody can always go on. All devices are free again after the block, also for a measurement that
has waited at the turnstile of one of them meanwhile.

That order costs a message for each machine. So several machines first try to take all their devices at the same time.
Where a device is not free, all let go of what they have, and take turns. Nothing waits for a device in the attempt, and
all ranks have met before it, so what the attempt holds is free again soon.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from nas.distill import distributed
from nas.measure.device_lock import awaited, training
from nas.measure.memory import release_cached

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # the same in all containers of a machine


class DeviceLease:
    """The devices' locks for training; `busy_s` adds up the seconds in them, without those spent waiting for them.

    Args:
        lock_dir: Folder of the locks of this rank's device, in a folder of the machine's locks. All ranks make a lease
            at the same time.
    """

    def __init__(self, lock_dir: Path) -> None:
        self._own = lock_dir
        self._turn, self._turns, self._folders = _turns(lock_dir)
        self.busy_s = 0.0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold the devices of all ranks within the block, which all ranks have to enter; errors have to come in all."""
        with ExitStack() as held:
            distributed.barrier()  # a rank that waits for another one, as for an evaluation in rank 0, holds nothing
            if self._turns == 1 or not self._took_at_once(held):
                self._take_in_turns(held)
            with self._timed():
                yield
            self._release_memory()
            distributed.barrier()  # this process may hold the devices of others

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold this rank's device within the block, in which it waits for no other rank."""
        with training(self._own):
            with self._timed():
                yield
            self._release_memory()

    def _took_at_once(self, held: ExitStack) -> bool:
        """Take the devices of all machines if all are free; return whether they were. Else none is held."""
        with ExitStack() as taken:
            busy = False
            try:
                for folder in self._folders:
                    taken.enter_context(training(folder, wait=False))
            except BlockingIOError:
                busy = True
            if distributed.any_rank(busy):
                return False
            held.enter_context(taken.pop_all())
        return True

    def _take_in_turns(self, held: ExitStack) -> None:
        for turn in range(self._turns):
            if turn == self._turn:
                for folder in self._folders:
                    held.enter_context(training(folder))
            distributed.barrier()

    def _release_memory(self) -> None:
        """Give the memory that PyTorch keeps on this rank's GPU to the process that waits for it, if one does."""
        if torch.cuda.is_initialized() and awaited(self._own):  # type: ignore[no-untyped-call]
            release_cached("cuda")

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.busy_s += time.perf_counter() - began


def _turns(lock_dir: Path) -> tuple[int, int, tuple[Path, ...]]:
    """Return this machine's turn, the number of turns, and the folders of the locks that this rank takes in it.

    The first rank of a machine takes all devices of its ranks: a turn for each device would cost more messages.
    """
    machines = lock_dir.parent
    machines.mkdir(parents=True, exist_ok=True)
    status = machines.stat()
    place = f"{_machine()} {status.st_dev} {status.st_ino}"
    ranks = distributed.distinct((place, distributed.rank(), lock_dir.name))
    places = sorted({each for each, _, _ in ranks})
    here = [(rank, device) for each, rank, device in ranks if each == place]
    devices = sorted({device for _, device in here}) if here[0][0] == distributed.rank() else []
    return places.index(place), len(places), tuple(lock_dir.with_name(device) for device in devices)


def _machine() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:  # no Linux
        return socket.gethostname()
