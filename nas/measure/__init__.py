"""Measure throughput, latency and memory of networks; `device_lock` keeps training off the device meanwhile."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.measure.arms import Arm, ArmError, default_arm
    from nas.measure.environment import DeviceError, torch_device
    from nas.measure.pair import Measured, measure_pair
    from nas.measure.prepare import Setting
    from nas.measure.verdicts import MeasurementError

__all__ = [
    "Arm",
    "ArmError",
    "DeviceError",
    "Measured",
    "MeasurementError",
    "Setting",
    "default_arm",
    "measure_pair",
    "torch_device",
]

_MODULES = {
    "Arm": "arms",
    "ArmError": "arms",
    "DeviceError": "environment",
    "Measured": "pair",
    "MeasurementError": "verdicts",
    "Setting": "prepare",
    "default_arm": "arms",
    "measure_pair": "pair",
    "torch_device": "environment",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: torch takes seconds to import, and the help of a command needs none."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
