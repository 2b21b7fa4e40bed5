"""What a measured number depends on beside the network: machine, threads, versions. No host names, no paths."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from nas.cli import cpu_count
from nas.measure.conditions import nvml


class DeviceError(ValueError):
    """A device that was asked for and is not there."""


def torch_device(name: str) -> torch.device:
    """ "auto", "cpu", "cuda" or "cuda:N" as a device that exists; DeviceError otherwise."""
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    choices = ["auto", "cpu", *(f"cuda:{i}" for i in range(cards))]
    if name == "auto":
        return torch.device("cuda:0" if cards else "cpu")
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in choices:
        raise DeviceError(f"device: {name!r} is not available here; choices: {', '.join(choices)}")
    return torch.device(wanted)


def device_key(device: str) -> str:
    """What a device is called in file names: "cpu", or the card's UUID, however torch numbers it in this process."""
    wanted = torch_device(device)
    return str(torch.cuda.get_device_properties(wanted).uuid) if wanted.type == "cuda" else "cpu"


def device_name(device: torch.device) -> str:
    """The card's name, or the CPU's with the number of threads torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_model()}, {torch.get_num_threads()} threads"


def device_kind(device: str) -> str:
    """What has to be the same for two timings to stand side by side: the card's name, or the CPU's with its cores.

    Where this process sees cards of several kinds, all of them.
    """
    if torch_device(device).type == "cuda":
        return " and ".join(sorted({torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}))
    return f"{cpu_model()}, {cpu_count()} CPUs"


def recorded_device_kind(environment: Mapping[str, Any]) -> str | None:
    """`device_kind` where a study's `environment` was written down; None where it was not."""
    if str(environment.get("device", "")).startswith("cuda"):
        return str(environment["device_name"])
    return f"{environment['cpu']}, {environment['cpus']} CPUs" if "cpus" in environment else None


def cpu_model() -> str:
    """The CPU as /proc/cpuinfo names it, elsewhere as the platform module does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def environment(device: str) -> dict[str, Any]:
    """Plain JSON data that names everything a timing on `device` depends on."""
    wanted = torch_device(device)
    return {
        "device": str(wanted),
        "device_name": device_name(wanted),
        "cpu": cpu_model(),
        "cpus": cpu_count(),
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),  # decides what a busy neighbour costs
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        **versions(),
        **(_cuda(wanted) if wanted.type == "cuda" else {}),
    }


def versions() -> dict[str, str]:
    """Of what a study's numbers are made by: it goes on with the same, or not at all."""
    found = {"torch": torch.__version__, "timm": metadata.version("timm")}
    with suppress(metadata.PackageNotFoundError):  # a copy of its files, not installed
        found["backbone-nas"] = metadata.version("backbone-nas")
    return found


def _cuda(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    return {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "uuid": str(properties.uuid),
        "driver": _driver(),
    }


def _driver() -> str | None:
    library = nvml()  # None in a container without NVML
    return None if library is None else str(library.nvmlSystemGetDriverVersion())
