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

from nas.measure.conditions import Conditions, Reading


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
        """See `Watch`. What a card doesn't tell is None."""
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
        """See `Watch`."""
        self.poll()
        return Conditions(tuple(self._readings), strangers=self._strangers())

    def energy_j(self) -> float | None:
        """See `Watch`."""
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


def held_bytes(library: Any, uuid: str) -> int | None:
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
