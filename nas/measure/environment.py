"""Describe what a timing depends on, apart from the network: machine, threads and versions, without names or paths."""

from __future__ import annotations

import hashlib
import os
import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from nas.machine import cpu_count
from nas.measure.conditions import compute_mode, gpu_uuid, nvml, restricted_mode
from nas.measure.devices import DeviceError, device_type, unavailable, without_kernels
from nas.measure.runtime_spec import Arm
from nas.numbers import plural


def torch_device(name: str) -> torch.device:
    """Return the device of a name: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        DeviceError: There is no such device.
    """
    if device_type(name) == "cpu":
        return torch.device("cpu")
    cards = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    chosen = "cuda:0" if name in ("auto", "cuda") else name
    if chosen not in cards:
        raise unavailable(name, ("auto", "cpu", *cards))
    return torch.device(chosen)


def device_key(device: str) -> str:
    """Return a device's name in file names: "cpu", or the GPU's UUID, which doesn't depend on torch's numbering."""
    chosen = torch_device(device)
    return str(torch.cuda.get_device_properties(chosen).uuid) if chosen.type == "cuda" else "cpu"


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or the CPU's with the number of torch's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_model()}, {thread_count()}"


def thread_count() -> str:
    """Return the number of torch's CPU threads in words: "1 thread", "2 threads"."""
    count = torch.get_num_threads()
    return f"{plural(count, 'thread')}"


def device_line(device: torch.device) -> str:
    """Return the line that tells a user which device a command uses."""
    if device.type == "cuda":
        return f"device: cuda ({torch.cuda.get_device_name(device)})"
    unused = without_kernels() or ("" if torch.cuda.is_available() else "PyTorch sees no GPU")
    return f"device: cpu ({plural(cpu_count(), 'CPU')}{f'; {unused}' if unused else ''})"


def device_kind(device: str) -> str:
    """Return the kind of device, which must be equal for two timings to be compared.

    It is the CPU's name with its number of cores, or the names of all GPUs that this process sees.
    """
    if torch_device(device).type == "cuda":
        return " and ".join(_gpu_names())
    return f"{cpu_model()}, {cpu_count()} CPUs"


def check_one_kind(device: str) -> None:
    """Raise DeviceError where this process sees GPUs of several kinds: a study would mix their timings."""
    if torch_device(device).type == "cuda" and len(_gpu_names()) > 1:
        raise DeviceError(
            f"the GPUs here are of several kinds, whose timings cannot be compared: {device_kind(device)}; "
            "choose those of one kind, as by CUDA_VISIBLE_DEVICES=0"
        )


def check_compute_mode(device: str) -> None:
    """Raise DeviceError where a GPU lets no second process measure; nothing where NVML is unknown.

    Args:
        device: "cuda:N" for one GPU alone; "cuda" or "auto" for all of this process.
    """
    if (chosen := torch_device(device)).type != "cuda" or (library := nvml()) is None:
        return
    every = (torch.device("cuda", number) for number in range(torch.cuda.device_count()))
    gpus = every if device in ("auto", "cuda") else (chosen,)
    if mode := restricted_mode(compute_mode(library, gpu_uuid(gpu)) for gpu in gpus):
        raise DeviceError(
            f"a GPU here is in the compute mode {mode}: a process of its own measures while another one keeps the GPU, "
            "so that measurements would fail; choose another GPU, as by CUDA_VISIBLE_DEVICES=1, or let the "
            "administrator set the default mode: nvidia-smi -c 0"
        )


def _gpu_names() -> list[str]:
    return sorted({torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())})


def cpu_model() -> str:
    """Return the CPU's name in /proc/cpuinfo, or that of the platform module where there is none."""
    try:
        name = cpu_name(Path("/proc/cpuinfo").read_text())
    except OSError:
        name = ""
    return name or platform.processor() or platform.machine()


def cpu_name(cpuinfo: str) -> str:
    """Return the CPU's name in a text of /proc/cpuinfo, "" where it has none.

    Linux on ARM gives no name but the numbers of each core's designer and design: "ARM 0x41/0xd0c".
    """
    fields = [
        (name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in cpuinfo.splitlines())
    ]
    models = [value for name, value in fields if name == "model name"]
    designers = [value for name, value in fields if name == "CPU implementer"]
    designs = [value for name, value in fields if name == "CPU part"]
    cores = dict.fromkeys(map("/".join, zip(designers, designs, strict=False)))
    return models[0] if models else f"ARM {', '.join(cores)}" if cores else ""


def environment(device: str, *arms: Arm) -> dict[str, Any]:
    """Return everything that a timing on `device` depends on, as JSON data.

    Args:
        device: Name of a device.
        arms: How networks are timed: the libraries of their runtimes are recorded.
    """
    chosen = torch_device(device)
    return {
        "device": str(chosen),
        "device_name": device_name(chosen),
        "cpu": cpu_model(),
        "cpus": cpu_count(),
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),  # decides the effect of other processes
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "code": code_digest(),
        **versions(*arms),
        **(_cuda(chosen) if chosen.type == "cuda" else {}),
    }


def code_digest() -> str:
    """Return a digest of this project's source files that a study's numbers depend on."""
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    for package in ("search_space", "backbones", "nas"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(os.fsencode(path.relative_to(root)) + path.read_bytes())
    return digest.hexdigest()[:12]


def versions(*arms: Arm) -> dict[str, str]:
    """Return the versions that a study's numbers depend on; a study is resumed with the same ones only.

    Args:
        arms: How networks are timed. A runtime that none of them has does not matter.
    """
    found = {"torch": torch.__version__, "timm": metadata.version("timm")}
    for package in ("backbone-nas", *(name for arm in arms for name in arm.traits.packages)):
        with suppress(metadata.PackageNotFoundError):  # run from a copy of its files, or not installed
            found[package] = metadata.version(package)
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
