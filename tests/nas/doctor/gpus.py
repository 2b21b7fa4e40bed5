"""A GPU for machines without one: what PyTorch and NVML would say of it."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch

from tests.nas.measure.machine import Machine, Nvml

TOTAL_BYTES, FREE_BYTES = 80 * 10**9, 79 * 10**9


class Driver(Nvml):
    """NVML with what the doctor asks in addition."""

    NVML_CLOCK_MEM = 2
    reports_power = True
    mode = 0
    wall_ns = staticmethod(time.time_ns)  # that of a watch which the product makes

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.1"

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetComputeMode(self, handle: str) -> int:
        return self.mode

    def nvmlDeviceGetMaxClockInfo(self, handle: str, kind: int) -> int:
        return {self.NVML_CLOCK_SM: 1980, self.NVML_CLOCK_MEM: 2619}[kind]

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:
        if not self.reports_power:
            raise self.NVMLError(3)
        return 700_000


def install(patch: pytest.MonkeyPatch) -> Driver:
    """Let this process have one GPU."""
    driver = Driver(Machine())
    properties = SimpleNamespace(name="Example H100", major=9, minor=0, uuid="1")
    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(torch.cuda, "device_count", lambda: 1)
    patch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    patch.setattr(torch.cuda, "get_device_name", lambda device: properties.name)
    patch.setattr(torch.cuda, "mem_get_info", lambda device: (FREE_BYTES, TOTAL_BYTES))
    for module in ("pair", "environment"):
        patch.setattr(f"nas.measure.{module}.nvml", lambda: driver)
    return driver


def install_exclusive(patch: pytest.MonkeyPatch) -> None:
    """Let this process have one GPU, in the compute mode EXCLUSIVE_PROCESS."""
    install(patch).mode = 3
    patch.setattr("torch.cuda.get_device_capability", lambda number: (9, 0))
    patch.setattr("nas.measure.environment.device_type", lambda name: "cpu" if name == "cpu" else "cuda")
