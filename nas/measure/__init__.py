"""Throughput, latency and memory that can be trusted; `exclusive` keeps trainers off the device meanwhile."""

from nas.measure.environment import DeviceError, environment, torch_device
from nas.measure.pair import measure_pair

__all__ = ["DeviceError", "environment", "measure_pair", "torch_device"]
