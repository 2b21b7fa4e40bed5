"""Watch a device while it is measured: clocks, heat, power, and other users.

`watching` begins a `DeviceWatch`, polls it 15 times a second and ends it; what it saw are `Conditions`. `HostWatch`
reads the kernel's accounts of a CPU (Linux; elsewhere nothing is known), `CardWatch` reads an NVIDIA card through NVML.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

POLL_HZ = 15.0
# NVML's reasons for a lower clock, by bit. What heat or the board forces makes a number worthless; the power cap is the
# card's normal life.
SLOWDOWNS = {0x08: "hardware slowdown", 0x20: "heat (software)", 0x40: "heat (hardware)", 0x80: "power brake"}
POWER_CAP = 0x04


@dataclass(frozen=True)
class Reading:
    """One look at a card; None is what it doesn't tell."""

    at_s: float  # on the timer's clock
    clock_mhz: float | None  # of the multiprocessors
    power_w: float | None
    temperature_c: float | None
    reasons: int | None  # NVML's bits


@dataclass(frozen=True)
class Conditions:
    """What was seen during one measurement. None is what a device doesn't tell."""

    readings: tuple[Reading, ...] = ()
    other_processes: int = 0  # other processes that computed on the card
    waited: float | None = None  # share of the time in which a thread of ours was ready and had no core
    other_busy_cores: float | None = None  # CPUs that other processes kept busy, on average

    @property
    def slowdowns(self) -> tuple[str, ...]:
        """Why the card was slowed down against its will."""
        seen = 0
        for reading in self.readings:
            seen |= reading.reasons or 0
        return tuple(name for bit, name in SLOWDOWNS.items() if seen & bit)

    @property
    def power_capped(self) -> float:
        """Share of the readings at the power cap."""
        return sum(bool((r.reasons or 0) & POWER_CAP) for r in self.readings) / max(1, len(self.readings))

    @property
    def unknown(self) -> tuple[str, ...]:
        """What a card that is watched does not tell."""
        names = {"reasons": "heat", "clock_mhz": "clocks"}
        silent = (name for name in names if all(getattr(r, name) is None for r in self.readings))
        return tuple(names[name] for name in silent) if self.readings else ()

    def summary(self) -> dict[str, Any]:
        """Plain JSON data for a record: medians and extremes, without the readings."""
        found: dict[str, Any] = {k: v for k, v in asdict(self).items() if k != "readings" and v is not None}
        for name in ("clock_mhz", "power_w", "temperature_c"):
            told = (getattr(reading, name) for reading in self.readings)
            if values := [value for value in told if value is not None]:
                found[name] = [min(values), float(np.median(values)), max(values)]
        return found


class DeviceWatch(Protocol):
    """What watches one kind of device."""

    def begin(self) -> None:
        """Look who is there, and start to count."""
        ...

    def poll(self) -> None:
        """Take a reading."""
        ...

    def end(self) -> Conditions:
        """What was seen since `begin`."""
        ...

    def energy_j(self) -> float | None:
        """Joules that the device has used so far; None where nobody counts them."""
        ...


@contextmanager
def watching(watch: DeviceWatch, hertz: float | None = POLL_HZ) -> Iterator[Callable[[], Conditions]]:
    """Polls in a thread while the body runs (hertz None: never); the function ends that and gives the conditions."""
    over = threading.Event()

    def poll() -> None:
        while not over.wait(1 / hertz):  # type: ignore[operator]
            watch.poll()

    watch.begin()
    thread = threading.Thread(target=poll, daemon=True) if hertz else None
    if thread:
        thread.start()

    def conditions() -> Conditions:
        over.set()
        if thread:
            thread.join()
        return watch.end()

    try:
        yield conditions
    finally:
        over.set()


@dataclass(frozen=True)
class CpuTimes:
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
    _before: CpuTimes | None = field(default=None, init=False)

    def begin(self) -> None:
        """See `DeviceWatch`."""
        self._before = self._look()

    def poll(self) -> None:
        """Nothing: the kernel counts by itself."""

    def end(self) -> Conditions:
        """See `DeviceWatch`."""
        before, now = self._before, self._look()
        assert before is not None, "begin comes first"
        waited = others = None
        if now.ran_s is not None and before.ran_s is not None:
            waited_s, ran_s = (now.waited_s or 0) - (before.waited_s or 0), now.ran_s - before.ran_s
            waited = waited_s / max(waited_s + ran_s, 1e-9)
        if now.busy_s is not None and before.busy_s is not None:
            others_s = now.busy_s - before.busy_s - (now.own_s - before.own_s)
            others = max(0.0, others_s) / max(now.at_s - before.at_s, 1e-9)
        return Conditions(waited=waited, other_busy_cores=others)

    def energy_j(self) -> float | None:
        """Unknown."""
        return None

    def _look(self) -> CpuTimes:
        own = os.times()
        return CpuTimes(time.monotonic(), own.user + own.system, *self._scheduled(), self._busy_s())

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


@dataclass
class CardWatch:
    """An NVIDIA card, through NVML. `nvml`: the module pynvml, initialised; `uuid` names the card."""

    nvml: Any
    uuid: str
    now: Callable[[], float] = time.perf_counter
    _readings: list[Reading] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._handle = self.nvml.nvmlDeviceGetHandleByUUID(self.uuid)

    def begin(self) -> None:
        """See `DeviceWatch`."""
        self._since_us = time.time_ns() // 1000
        self._readings = []
        self.poll()

    def poll(self) -> None:
        """See `DeviceWatch`. What a card doesn't tell is None."""
        nvml = self.nvml
        found = (
            self._asked(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            self._asked(nvml.nvmlDeviceGetPowerUsage),
            self._asked(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            self._asked(nvml.nvmlDeviceGetCurrentClocksThrottleReasons),
        )
        clock, milliwatts, temperature, reasons = found
        power_w = None if milliwatts is None else milliwatts / 1e3
        self._readings.append(Reading(self.now(), clock, power_w, temperature, reasons))

    def _asked(self, question: Callable[..., Any], *about: Any) -> Any:
        with suppress(self.nvml.NVMLError):
            return question(self._handle, *about)
        return None

    def end(self) -> Conditions:
        """See `DeviceWatch`."""
        self.poll()
        return Conditions(tuple(self._readings), other_processes=self._strangers())

    def energy_j(self) -> float | None:
        """See `DeviceWatch`."""
        millijoules = self._asked(self.nvml.nvmlDeviceGetTotalEnergyConsumption)
        return None if millijoules is None else float(millijoules) / 1e3

    def _strangers(self) -> int:
        """Other processes that have computed here since `begin`; trainers that wait for our lock have not.

        Where the driver does not tell who computed (vGPU), all that have a context count. In a container, ids are the
        host's: then we are one of those that cannot be told apart.
        """
        present = {p.pid for p in self._asked(self.nvml.nvmlDeviceGetComputeRunningProcesses) or ()}
        ours = 1 if present and os.getpid() not in present else 0
        try:
            samples = self.nvml.nvmlDeviceGetProcessUtilization(self._handle, self._since_us)
            others = {sample.pid for sample in samples if sample.smUtil > 0}
        except self.nvml.NVMLError as error:
            if getattr(error, "value", None) == self.nvml.NVML_ERROR_NOT_FOUND:
                return 0  # nobody, nor we, in the last moments
            others = present
        return max(0, len(others - _family()) - ours)


def card_uuid(device: torch.device) -> str:
    """NVML's name of a card, as torch numbers it in this process."""
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


def nvml() -> Any:
    """NVML as the module pynvml, initialised; None where there is none, as in some containers."""
    import pynvml  # only where there is a card

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def driver_bytes(library: Any, uuid: str) -> int | None:
    """Bytes that this process holds on a card, context and libraries included; None in containers, which hide it."""
    with suppress(library.NVMLError):
        handle = library.nvmlDeviceGetHandleByUUID(uuid)
        for process in library.nvmlDeviceGetComputeRunningProcesses(handle):
            if process.pid == os.getpid() and process.usedGpuMemory is not None:
                return int(process.usedGpuMemory)
    return None


def _family() -> set[int]:
    """This process and those above it: a trainer that has its measurements done by a child."""
    family, pid = set(), os.getpid()
    while pid > 1 and pid not in family:
        family.add(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
    return family
