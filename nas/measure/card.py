"""What an NVIDIA card is watched by: NVML. The module is passed in, so that tests can pass another."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nas.measure.watch import Conditions, Reading


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
        """See `Watch`."""
        self._since_us = time.time_ns() // 1000
        self._readings = []
        self.poll()

    def poll(self) -> None:
        """See `Watch`. A reading that fails is left out."""
        nvml = self.nvml
        with suppress(nvml.NVMLError):
            self._readings.append(
                Reading(
                    at_s=self.now(),
                    clock_mhz=float(nvml.nvmlDeviceGetClockInfo(self._handle, nvml.NVML_CLOCK_SM)),
                    power_w=nvml.nvmlDeviceGetPowerUsage(self._handle) / 1e3,
                    temperature_c=float(nvml.nvmlDeviceGetTemperature(self._handle, nvml.NVML_TEMPERATURE_GPU)),
                    reasons=int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle)),
                )
            )

    def end(self) -> Conditions:
        """See `Watch`."""
        self.poll()
        return Conditions(tuple(self._readings), strangers=self._strangers())

    def energy_j(self) -> float | None:
        """See `Watch`."""
        try:
            return float(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except self.nvml.NVMLError:
            return None

    def _strangers(self) -> int:
        """Other processes that have computed here since `begin`; trainers that wait for our lock have not.

        Where the driver does not tell who computed (vGPU), all that have a context count. In a container, ids are the
        host's: then we are one of those that cannot be told apart.
        """
        nvml = self.nvml
        present = {p.pid for p in nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)}
        ours = 1 if present and os.getpid() not in present else 0
        others = present - _family()
        try:
            samples = nvml.nvmlDeviceGetProcessUtilization(self._handle, self._since_us)
            others &= {sample.pid for sample in samples if sample.smUtil > 0}
        except nvml.NVMLError as error:
            if getattr(error, "value", None) == nvml.NVML_ERROR_NOT_FOUND:
                return 0  # nobody, nor we, in the last moments
        return max(0, len(others) - ours)


def card_uuid(device: torch.device) -> str:
    """NVML's name of a card, as torch numbers it; does not wake CUDA up before a fork."""
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


def held_bytes(library: Any, uuid: str) -> int | None:
    """Bytes that this process holds on a card, context and libraries included; None in containers, which hide it."""
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
