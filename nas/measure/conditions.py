"""Watch a device while it is measured: clocks, heat, power and other processes.

`watching` begins a `DeviceWatch`, polls it 15 times a second and ends it, which returns `Conditions`. `HostWatch`
reads the CPU times of /proc (Linux only), `GpuWatch` reads an NVIDIA GPU through NVML.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

POLL_HZ = 15.0
# NVML's reasons for a lower clock, by bit. Heat and the power brake spoil a timing; the power cap is normal. A hardware
# slowdown comes with one of the two, or is reported alone, also while the clock changes (nvml.h).
SLOWDOWNS = {0x20: "heat (software)", 0x40: "heat (hardware)", 0x80: "power brake"}
POWER_CAP, HARDWARE_SLOWDOWN, HARDWARE_CAUSES = 0x04, 0x08, 0x40 | 0x80
RESTRICTED_MODES = {1: "EXCLUSIVE_THREAD", 2: "PROHIBITED", 3: "EXCLUSIVE_PROCESS"}  # NVML's; 0 takes any processes


@dataclass(frozen=True)
class Reading:
    """One reading of a GPU; None where the GPU doesn't report a value."""

    at_s: float  # on the timer's clock
    clock_mhz: float | None  # of the multiprocessors
    power_w: float | None
    temperature_c: float | None
    reasons: int | None  # NVML's bits


UNREADABLE = Reading(0.0, None, None, None, None)  # of a GPU that NVML does not know


@dataclass(frozen=True)
class Conditions:
    """Conditions during one measurement; None where the device doesn't report a value."""

    readings: tuple[Reading, ...] = ()
    other_processes: int = 0  # that computed on the GPU
    other_gpu_share: float | None = None  # of the time in which they did; None where only their presence is known
    wait_share: float | None = None  # of the time of this process's threads, runnable without a core
    other_busy_cores: float | None = None  # average number that other processes kept busy
    # True: of a CPU, where the kernel does not report the wait for a core; of a GPU, where NVML does not show the work
    # of this process, and so may not show that of others.
    contention_unknown: bool | None = None

    def readings_with(self, bit: int, without: int = 0) -> int:
        """Return the number of readings with one of NVML's reasons for a lower clock, and without others."""
        reasons = (reading.reasons or 0 for reading in self.readings)
        return sum(bool(bits & bit) and not bits & without for bits in reasons)

    @property
    def unknown(self) -> tuple[str, ...]:
        """The quantities that a GPU does not report, in words."""
        names = {"reasons": "heat", "clock_mhz": "clocks"}
        missing = (name for name in names if all(getattr(r, name) is None for r in self.readings))
        return tuple(names[name] for name in missing) if self.readings else ()

    def summary(self) -> dict[str, Any]:
        """Return JSON data for a record: medians and extremes in place of the readings."""
        fields: dict[str, Any] = {k: v for k, v in asdict(self).items() if k != "readings" and v is not None}
        for name in ("clock_mhz", "power_w", "temperature_c"):
            readings = (getattr(reading, name) for reading in self.readings)
            if values := [value for value in readings if value is not None]:
                fields[name] = [min(values), float(np.median(values)), max(values)]
        return fields


class DeviceWatch(Protocol):
    """A watch for one kind of device."""

    def begin(self) -> None:
        """Start to watch."""
        ...

    def poll(self) -> None:
        """Take a reading."""
        ...

    def end(self) -> Conditions:
        """Return the conditions since `begin`."""
        ...

    def energy_j(self) -> float | None:
        """Return the joules that the device has used so far; None where it doesn't count them."""
        ...


@contextmanager
def watching(watch: DeviceWatch, hertz: float | None = POLL_HZ) -> Iterator[Callable[[], Conditions]]:
    """Watch while the body runs; yield a function that ends the watch and returns the conditions.

    Args:
        watch: The watch.
        hertz: Polls per second, in a thread; None: none.
    """
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(1 / hertz):  # type: ignore[operator]
            watch.poll()

    watch.begin()
    thread = threading.Thread(target=poll, daemon=True) if hertz else None
    if thread:
        thread.start()

    def conditions() -> Conditions:
        stop.set()
        if thread:
            thread.join()
        return watch.end()

    try:
        yield conditions
    finally:
        stop.set()


@dataclass(frozen=True)
class CpuTimes:
    """CPU times in seconds since a fixed moment; None where the kernel doesn't report one."""

    at_s: float
    process_s: float  # CPU time of this process
    ran_s: float | None  # time of its living threads on a core
    waited_s: float | None  # time of its living threads runnable without a core
    busy_s: float | None  # CPU time of all processes


@contextmanager
def thread_wait() -> Iterator[Callable[[], float]]:
    """Yield a function that returns the seconds that the calling thread was runnable without a core.

    A call takes a microsecond: the kernel's file stays open in the body. Where the seconds are unknown, they are 0.0.
    """
    try:
        file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
    except OSError:
        yield lambda: 0.0
        return
    try:
        yield lambda: _wait_s(os.pread(file, 64, 0))
    finally:
        os.close(file)


def thread_waited_s() -> float:
    """Return the seconds that the calling thread was runnable without a core; 0.0 where they are unknown."""
    with thread_wait() as waited_s:
        return waited_s()


def _wait_s(schedstat: bytes) -> float:
    fields = schedstat.split()
    return int(fields[1]) / 1e9 if len(fields) > 1 else 0.0


@dataclass
class HostWatch:
    """Watch how long this process's threads wait for a core, and how many cores other processes keep busy.

    Args:
        proc: Folder of the kernel's figures.
        readings: Readings that belong to the conditions, of a GPU that NVML does not know.
    """

    proc: Path = Path("/proc")
    readings: tuple[Reading, ...] = ()
    _begin: CpuTimes | None = field(default=None, init=False)

    def begin(self) -> None:
        """See `DeviceWatch`."""
        self._begin = self._read()

    def poll(self) -> None:
        """Do nothing: the kernel counts by itself."""

    def end(self) -> Conditions:
        """See `DeviceWatch`."""
        before, now = self._begin, self._read()
        assert before is not None, "call begin first"
        wait_share = other_cores = None
        if now.ran_s is not None and before.ran_s is not None:
            waited_s, ran_s = (now.waited_s or 0) - (before.waited_s or 0), now.ran_s - before.ran_s
            wait_share = waited_s / max(waited_s + ran_s, 1e-9)
        if now.busy_s is not None and before.busy_s is not None:
            others_s = now.busy_s - before.busy_s - (now.process_s - before.process_s)
            other_cores = max(0.0, others_s) / max(now.at_s - before.at_s, 1e-9)
        unknown = True if wait_share is None or self.readings else None  # the readings are of a GPU without NVML
        return Conditions(
            self.readings, wait_share=wait_share, other_busy_cores=other_cores, contention_unknown=unknown
        )

    def energy_j(self) -> float | None:
        """Return None: the energy is unknown."""
        return None

    def _read(self) -> CpuTimes:
        process = os.times()
        return CpuTimes(time.monotonic(), process.user + process.system, *self._scheduled(), self._busy_s())

    def _scheduled(self) -> tuple[float | None, float | None]:
        """Return the seconds that this process's threads ran and waited: the first two fields of schedstat, in ns."""
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
        """Return the busy seconds of all CPUs.

        The first line of /proc/stat has user, nice, system, idle, iowait, irq, softirq, steal in ticks.
        """
        try:
            ticks = [int(field) for field in (self.proc / "stat").read_text().partition("\n")[0].split()[1:9]]
            return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError):
            return None


@dataclass
class GpuWatch:
    """Watch an NVIDIA GPU through NVML.

    Args:
        nvml: The module pynvml, initialized.
        uuid: NVML's name of the GPU.
        now: Seconds on the timer's clock.
        wall_ns: The wall clock in ns, which NVML's samples of processes refer to.
        host: Watches the process that launches the kernels.
    """

    nvml: Any
    uuid: str
    now: Callable[[], float] = time.perf_counter
    wall_ns: Callable[[], int] = time.time_ns
    host: HostWatch = field(default_factory=HostWatch)
    _readings: list[Reading] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._handle = self.nvml.nvmlDeviceGetHandleByUUID(self.uuid)

    def begin(self) -> None:
        """See `DeviceWatch`. A reading now would be that of an idle GPU, whose clock is about to change."""
        self._begin_ns = self.wall_ns()
        self._readings = []
        self.host.begin()

    def poll(self) -> None:
        """See `DeviceWatch`."""
        nvml = self.nvml
        clock, milliwatts, temperature, reasons = (
            self._query(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            self._query(nvml.nvmlDeviceGetPowerUsage),
            self._query(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            self._query(nvml.nvmlDeviceGetCurrentClocksThrottleReasons),
        )
        power_w = None if milliwatts is None else milliwatts / 1e3
        self._readings.append(Reading(self.now(), clock, power_w, temperature, reasons))

    def _query(self, function: Callable[..., Any], *arguments: Any) -> Any:
        with suppress(self.nvml.NVMLError):
            return function(self._handle, *arguments)
        return None

    def end(self) -> Conditions:
        """See `DeviceWatch`."""
        self.poll()
        processes, share, unknown = self._others()
        wait_share = self.host.end().wait_share
        return Conditions(tuple(self._readings), processes, share, wait_share, contention_unknown=unknown)

    def energy_j(self) -> float | None:
        """See `DeviceWatch`."""
        millijoules = self._query(self.nvml.nvmlDeviceGetTotalEnergyConsumption)
        return None if millijoules is None else float(millijoules) / 1e3

    def shares_by_process(self, since_ns: int) -> dict[int, float] | None:
        """Return the share of the time in which each process computed here, by process id.

        NVML samples a process that computes every 1/6 to 1 s. One that it sampled less often than others did not
        compute in the meantime.

        Args:
            since_ns: Begin on the wall clock.

        Returns:
            The shares; None where the driver does not report them (vGPU, MIG).
        """
        since_us = since_ns // 1000
        try:
            samples = self.nvml.nvmlDeviceGetProcessUtilization(self._handle, since_us)
        except self.nvml.NVMLError as error:
            return {} if getattr(error, "value", None) == self.nvml.NVML_ERROR_NOT_FOUND else None
        # Some drivers return entries that are older, or of more than 100 % (github.com/Syllo/nvtop/issues/110).
        percent: dict[int, list[int]] = {}
        for sample in samples:
            if sample.timeStamp > since_us and sample.smUtil <= 100:
                percent.setdefault(sample.pid, []).append(sample.smUtil)
        most = max(map(len, percent.values()), default=1)
        return {pid: sum(values) / most / 100 for pid, values in percent.items()}

    def _others(self) -> tuple[int, float | None, bool | None]:
        """Return how many others computed here since `begin`, the share of the time, and True if they are unknown.

        Trainers that wait for the lock have not computed. Where the driver doesn't report shares, all processes with a
        context count. In a container either list may have the host's ids, which do not tell this process from others.
        """
        shares, family, ours = self.shares_by_process(self._begin_ns), _family(), os.getpid()
        present = {p.pid for p in self._query(self.nvml.nvmlDeviceGetComputeRunningProcesses) or ()}
        if shares is None:
            return (len(present - family), None, None) if ours in present else (0, None, True)
        others = {pid: share for pid, share in shares.items() if share and pid not in family}
        same_ids = shares.keys() & family or (ours in present and others.keys() & present)
        if others and not same_ids:
            del others[max(others, key=lambda pid: others[pid])]  # this process, which has computed all the time
            return len(others), sum(others.values()), None
        return len(others), sum(others.values()), None if shares.get(ours) else True


def gpu_uuid(device: torch.device) -> str:
    """Return NVML's name of a GPU as torch numbers it in this process."""
    import torch  # not for everybody who reads conditions, as a process that only starts measurements

    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


def nvml() -> Any:
    """Return the module pynvml, initialized; None without NVML, as in some containers."""
    import pynvml  # only where there is a GPU

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def compute_mode(library: Any, uuid: str) -> int | None:
    """Return NVML's number of a GPU's compute mode; None where NVML does not know it, as of a part of a GPU (MIG)."""
    with suppress(library.NVMLError):
        return int(library.nvmlDeviceGetComputeMode(library.nvmlDeviceGetHandleByUUID(uuid)))
    return None


def restricted_mode(modes: Iterable[int | None]) -> str:
    """Return the name of the first compute mode that keeps a second process off a GPU; "" where none is known to.

    Measurements need a second process: a worker keeps its context on the GPU while a process of its own measures there.

    Args:
        modes: `compute_mode` of each GPU.
    """
    return next((RESTRICTED_MODES[mode] for mode in modes if mode in RESTRICTED_MODES), "")


def driver_bytes(library: Any, uuid: str) -> int | None:
    """Return the bytes that this process holds on a GPU, context and libraries included; None in most containers."""
    with suppress(library.NVMLError):
        handle = library.nvmlDeviceGetHandleByUUID(uuid)
        for process in library.nvmlDeviceGetComputeRunningProcesses(handle):
            if process.pid == os.getpid() and process.usedGpuMemory is not None:
                return int(process.usedGpuMemory)
    return None


def _family() -> set[int]:
    """Return the ids of this process and its ancestors: a trainer lets a child measure."""
    family, pid = set(), os.getpid()
    while pid > 1 and pid not in family:
        family.add(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
    return family
