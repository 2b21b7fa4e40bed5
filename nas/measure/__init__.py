"""Measure throughput, latency and memory of networks; `device_lock` keeps training off the device meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from nas.measure.devices import DeviceError
    from nas.measure.environment import torch_device
    from nas.measure.measurement_error import MeasurementError
    from nas.measure.pair import Measured, measure_pair
    from nas.measure.prepare import Setting
    from nas.measure.runtime_spec import Arm, ArmError, default_arm

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

# Names are imported when they are first used: torch takes seconds to import, and the help of a command needs none.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "runtime_spec": ["Arm", "ArmError", "default_arm"],
        "devices": ["DeviceError"],
        "environment": ["torch_device"],
        "pair": ["Measured", "measure_pair"],
        "measurement_error": ["MeasurementError"],
        "prepare": ["Setting"],
    },
)
