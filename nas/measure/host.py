"""What a CPU is watched by: the kernel's own accounts (Linux; elsewhere nothing is known)."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from nas.measure.conditions import Conditions


@dataclass(frozen=True)
class Account:
    """Seconds since some beginning. None where the kernel doesn't tell."""

    at_s: float
    own_s: float  # of CPU time that this process used
    ran_s: float | None  # that its threads spent on a core, those that have ended left out
    waited_s: float | None  # that they were ready and had none
    busy_s: float | None  # of CPU time that anybody used


def thread_waited_s() -> float:
    """Seconds that the calling thread was ready and had no core so far; 0.0 where the kernel doesn't tell."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


@dataclass
class HostWatch:
    """Whether our threads had to wait for a core, and how busy others kept the machine."""

    proc: Path = Path("/proc")
    _before: Account | None = field(default=None, init=False)

    def begin(self) -> None:
        """See `Watch`."""
        self._before = self._look()

    def poll(self) -> None:
        """Nothing: the kernel counts by itself."""

    def end(self) -> Conditions:
        """See `Watch`."""
        before, now = self._before, self._look()
        assert before is not None, "begin comes first"
        waited = others = None
        if now.ran_s is not None and before.ran_s is not None:
            waited_s, ran_s = (now.waited_s or 0) - (before.waited_s or 0), now.ran_s - before.ran_s
            waited = waited_s / max(waited_s + ran_s, 1e-9)
        if now.busy_s is not None and before.busy_s is not None:
            others_s = now.busy_s - before.busy_s - (now.own_s - before.own_s)
            others = max(0.0, others_s) / max(now.at_s - before.at_s, 1e-9)
        return Conditions(waited=waited, others_cores=others)

    def energy_j(self) -> float | None:
        """Unknown."""
        return None

    def _look(self) -> Account:
        own = os.times()
        return Account(time.monotonic(), own.user + own.system, *self._scheduled(), self._busy_s())

    def _scheduled(self) -> tuple[float | None, float | None]:
        """Seconds that our threads ran, and waited: the first two fields of each schedstat, in nanoseconds."""
        ran = waited = 0
        try:
            for task in (self.proc / "self" / "task").iterdir():
                with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                    fields = (task / "schedstat").read_text().split()
                    ran, waited = ran + int(fields[0]), waited + int(fields[1])
        except (OSError, ValueError, IndexError):
            return None, None
        return ran / 1e9, waited / 1e9

    def _busy_s(self) -> float | None:
        """The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal in ticks."""
        try:
            ticks = [int(field) for field in (self.proc / "stat").read_text().partition("\n")[0].split()[1:9]]
            return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError):
            return None
