"""A machine whose clock, noise, heat and neighbours are known, so that verdicts can be asserted."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas.measure.conditions import Conditions, GpuWatch, HostWatch
from nas.measure.timers import HostTimer, Timing
from tests.nas.error_texts import OUT_OF_MEMORY

POLL_S = 1 / 15
STRANGER = 4_000_001  # over the largest process id of Linux by default


class Machine:
    """A clock that work advances: `seconds` times slowdown(now) times lognormal noise. Copies are the same machine."""

    def __init__(self, noise: float = 0.0, slowdown: Callable[[float], float] = lambda now: 1.0, seed: int = 0) -> None:
        self.now = 0.0
        self.noise = noise
        self.slowdown = slowdown
        self.rng = np.random.default_rng(seed)
        self.calls = 0
        self.slept: list[float] = []
        self.running = ""  # the net that works
        self.on_poll: Callable[[], None] = lambda: None
        self._polled = 0.0

    def __deepcopy__(self, memo: Any) -> Machine:
        return self

    def work(self, seconds: float) -> None:
        self.calls += 1
        self.pass_time(seconds * self.slowdown(self.now) * float(np.exp(self.noise * self.rng.standard_normal())))

    def pass_time(self, seconds: float) -> None:
        """Whoever polls does so whenever it is time."""
        end = self.now + seconds
        while self._polled + POLL_S <= end:
            self._polled = self.now = max(self.now, self._polled + POLL_S)
            self.on_poll()
        self.now = end

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.pass_time(seconds)

    def net(self, seconds: float) -> Callable[[], None]:
        return lambda: self.work(seconds)

    def timer(self) -> HostTimer:
        return HostTimer(lambda: self.now, self.sleep)


class Net(nn.Module):
    """Takes `image_s` seconds an image on a `machine`; more images at once than fit raise an error of this `text`."""

    def __init__(
        self,
        machine: Machine,
        image_s: float,
        name: str = "candidate",
        most_images: int = 10**6,
        text: str = OUT_OF_MEMORY[0],
    ) -> None:
        super().__init__()
        self.machine, self.image_s, self.name, self.most_images, self.text = machine, image_s, name, most_images, text
        self.scale = nn.Parameter(torch.ones(1))

    def encode(self, images: Tensor) -> Tensor:
        if len(images) > self.most_images:
            raise RuntimeError(self.text)
        self.machine.running = self.name
        self.machine.work(self.image_s * len(images))
        return images.mean((2, 3)) * self.scale


class QueuedTimer:
    """A card's timer: launching a call takes `host_s`, on top of nothing, whatever the device does."""

    queued = True

    def __init__(self, machine: Machine, host_s: float) -> None:
        self.machine, self.host_s = machine, host_s
        self.sleep = machine.sleep

    def now(self) -> float:
        return self.machine.now

    def run(self, calls: Sequence[Callable[[], object]], repeats: Sequence[int]) -> list[Timing]:
        timed = self.machine.timer().run(calls, repeats)
        return [Timing(max(t.device_s, self.host_s), self.host_s) for t in timed]


class GpuQueue:
    """A card's timer with a queue: the device runs kernels in order, none before the host has issued it.

    Events on an idle stream are recorded at once, so that a call on an empty queue is timed with the host's work.
    """

    queued = True

    def __init__(self, seed: int = 0) -> None:
        self.host_s = self.device_s = 0.0
        self.rng = np.random.default_rng(seed)

    def __deepcopy__(self, memo: Any) -> GpuQueue:
        return self

    def now(self) -> float:
        return self.host_s

    def sleep(self, seconds: float) -> None:
        self.host_s += seconds

    def net(self, prologue_s: float, kernels: int, launch_s: float, kernel_s: float) -> Callable[[], None]:
        """Return a call of `kernels`, each launched in `launch_s`, after `prologue_s` on the host (guards)."""

        def call() -> None:
            self.host_s += prologue_s
            for _ in range(kernels):
                self.host_s += launch_s
                noise = 1 + 0.002 * self.rng.standard_normal()
                self.device_s = max(self.device_s, self.host_s) + kernel_s * noise

        return call

    def run(self, calls: Sequence[Callable[[], object]], repeats: Sequence[int]) -> list[Timing]:
        timings = []
        for call, n in zip(calls, repeats, strict=True):
            began, host_s = max(self.device_s, self.host_s), self.host_s
            for _ in range(n):
                call()
            timings.append(Timing((self.device_s - began) / n, (self.host_s - host_s) / n))
        self.host_s = max(self.host_s, self.device_s)  # synchronizes
        return timings


class QueuedNet(nn.Module):
    """Takes `image_s` seconds an image on the card of a `queue`, in `kernels` that are launched in `launch_s` each."""

    def __init__(self, queue: GpuQueue, image_s: float, kernels: int, launch_s: float = 7e-6) -> None:
        super().__init__()
        self.queue, self.image_s, self.kernels, self.launch_s = queue, image_s, kernels, launch_s
        self.scale = nn.Parameter(torch.ones(1))

    def encode(self, images: Tensor) -> Tensor:
        self.queue.net(0.0, self.kernels, self.launch_s, self.image_s * len(images) / self.kernels)()
        return images.mean((2, 3)) * self.scale


class Quiet:
    """A watch that sees nothing."""

    def begin(self) -> None: ...
    def poll(self) -> None: ...
    def end(self) -> Conditions:
        return Conditions()

    def energy_j(self) -> None:
        return None


class Nvml:
    """What the card's watch asks of pynvml, answered by functions of time."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU, NVML_ERROR_NOT_FOUND = 1, 0, 6

    class NVMLError(Exception):
        def __init__(self, value: int = 999) -> None:
            super().__init__(value)
            self.value = value

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.clock_mhz: Callable[[], float] = lambda: 1700
        self.reasons: Callable[[], int] = lambda: 0
        self.watts: Callable[[], float] = lambda: 300.0
        self.processes = {os.getpid(): 90}  # id -> utilisation of the multiprocessors in percent
        self.sample_s = 1 / 6  # between two samples of the processes
        self.tells_utilisation = True
        self.proc = Path("/none")  # the kernel's figures of the process that launches kernels
        self.host_ids: dict[int, int] = {}  # id here -> the host's, which some drivers give for the utilisation alone

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        assert uuid == "GPU-1"
        return uuid

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        return int(self.clock_mhz())

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return int(self.watts() * 1e3)

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        return 60

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        return self.reasons()

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        return int(self.machine.now * self.watts() * 1e3)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid) for pid in self.processes]

    def nvmlDeviceGetProcessUtilization(self, handle: str, since_us: int) -> list[SimpleNamespace]:
        if not self.tells_utilisation:
            raise self.NVMLError(3)
        sampled_us = int(self.wall_ns() / 1e9 / self.sample_s) * self.sample_s * 1e6
        if not self.processes or sampled_us <= since_us:
            raise self.NVMLError(self.NVML_ERROR_NOT_FOUND)
        return [self.sample(pid, percent, sampled_us) for pid, percent in self.processes.items()]

    def sample(self, pid: int, percent: int, at_us: float) -> SimpleNamespace:
        return SimpleNamespace(pid=self.host_ids.get(pid, pid), smUtil=percent, timeStamp=int(at_us))

    def wall_ns(self) -> int:
        return int(self.machine.now * 1e9)

    def watch(self) -> GpuWatch:
        watch = GpuWatch(self, "GPU-1", lambda: self.machine.now, self.wall_ns, HostWatch(self.proc))
        self.machine.on_poll = watch.poll
        return watch
