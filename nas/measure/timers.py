"""Time calls on the host's clock or by CUDA events."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from nas.measure.conditions import thread_waited_s

Call = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds per call: on the device, and on the host until the work was queued (equal on a CPU)."""

    device_s: float
    host_s: float


class Timer(Protocol):
    """A clock that times calls."""

    @property
    def queued(self) -> bool:
        """Whether work is queued for a device, so that the host may run ahead of it or fall behind."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    def now(self) -> float:
        """Return the seconds on a monotonic clock, for budgets."""
        ...

    def run(self, calls: Sequence[Call], repeats: Sequence[int]) -> list[Timing]:
        """Run each call its number of `repeats` in a row, one call after the other; return one timing for each."""
        ...


@dataclass(frozen=True)
class HostTimer:
    """The host's clock around calls on the CPU, less the time in which this thread was runnable without a core.

    Otherwise other processes on the core would decide the number. Waiting of other threads of this process is not
    subtracted.
    """

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    waited: Callable[[], float] = lambda: 0.0  # seconds so far
    queued = False

    def run(self, calls: Sequence[Call], repeats: Sequence[int]) -> list[Timing]:
        """See `Timer`."""
        return [self._time(call, n) for call, n in zip(calls, repeats, strict=True)]

    def _time(self, call: Call, n: int) -> Timing:
        first = self.now()
        waited, start = self.waited(), self.now()
        for _ in range(n):
            call()
        end = self.now()
        waited, last = self.waited() - waited, self.now()
        # The core may be lost while the wait is read, too: never subtract more than was waited within the calls.
        waited = max(0.0, waited - (start - first) - (last - end))
        seconds = (end - start - waited) / n
        return Timing(seconds, seconds)


@dataclass(frozen=True)
class CudaTimer:
    """Pairs of CUDA events queued around the calls, with one synchronization at the end of the sequence.

    Where the queue was empty before, a host time near the device time means that launching, not computing, was timed.
    """

    device: torch.device
    queued = True

    def sleep(self, seconds: float) -> None:
        """See `Timer`."""
        time.sleep(seconds)

    def now(self) -> float:
        """See `Timer`."""
        return time.perf_counter()

    def run(self, calls: Sequence[Call], repeats: Sequence[int]) -> list[Timing]:
        """See `Timer`."""
        with torch.cuda.device(self.device):
            events, hosts = [], []
            for call, n in zip(calls, repeats, strict=True):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
                start.record()  # makes the event, which is no work of the call
                host = time.perf_counter()
                for _ in range(n):
                    call()
                hosts.append(time.perf_counter() - host)
                end.record()
                events.append((start, end))
            torch.cuda.synchronize()
        return [
            Timing(start.elapsed_time(end) / 1e3 / n, host / n)
            for (start, end), host, n in zip(events, hosts, repeats, strict=True)
        ]


def timer_for(device: torch.device) -> Timer:
    """Return the timer that a device needs."""
    return CudaTimer(device) if device.type == "cuda" else HostTimer(waited=thread_waited_s)
