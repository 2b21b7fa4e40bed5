"""Timing of calls, on the host's clock or by CUDA events. The protocol gets its timer passed in: tests pass a fake."""

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
    """Seconds per call: on the device, and on the host until it had queued the work (equal on a CPU)."""

    device_s: float
    host_s: float


class Timer(Protocol):
    """What a protocol needs to know about time."""

    @property
    def queued(self) -> bool:
        """Whether work is queued for a device, so that the host may run ahead of it or fall behind."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        ...

    def now(self) -> float:
        """Seconds on a monotonic clock; for budgets."""
        ...

    def run(self, calls: Sequence[Call], repeats: Sequence[int]) -> list[Timing]:
        """Make every call `repeats` times in a row, one call after the other; one timing each."""
        ...


@dataclass(frozen=True)
class HostTimer:
    """CPU: the host's clock around the calls, less the time in which this thread was ready and had no core.

    Who else wants the core would otherwise decide the number. Other threads of ours that wait are not seen.
    """

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    waited: Callable[[], float] = lambda: 0.0  # seconds so far
    queued = False

    def run(self, calls: Sequence[Call], repeats: Sequence[int]) -> list[Timing]:
        """See `Timer`."""
        return [self._time(call, n) for call, n in zip(calls, repeats, strict=True)]

    def _time(self, call: Call, n: int) -> Timing:
        before = self.now()
        waited, start = self.waited(), self.now()
        for _ in range(n):
            call()
        end = self.now()
        waited, after = self.waited() - waited, self.now()
        # Asking takes time, in which the core may be lost as well: never take off more than was waited in the calls.
        waited = max(0.0, waited - (start - before) - (after - end))
        seconds = (end - start - waited) / n
        return Timing(seconds, seconds)


@dataclass(frozen=True)
class CudaTimer:
    """CUDA: pairs of events queued around the calls and one synchronisation at the end of the sequence.

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
                host = time.perf_counter()
                start.record()
                for _ in range(n):
                    call()
                end.record()
                hosts.append(time.perf_counter() - host)
                events.append((start, end))
            torch.cuda.synchronize()
        return [
            Timing(start.elapsed_time(end) / 1e3 / n, host / n)
            for (start, end), host, n in zip(events, hosts, repeats, strict=True)
        ]


def timer_for(device: torch.device) -> Timer:
    """The timer that a device needs."""
    return CudaTimer(device) if device.type == "cuda" else HostTimer(waited=thread_waited_s)
