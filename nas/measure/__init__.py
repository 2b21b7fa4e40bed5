"""Measure throughput, latency and memory of networks; `device_lock` keeps training off the device meanwhile."""

from nas.measure.arms import Arm, ArmError, default_arm
from nas.measure.environment import DeviceError, environment, torch_device
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
    "environment",
    "measure_pair",
    "torch_device",
]
