"""Read what this machine has. The functions return frozen records and judge nothing; `nas.doctor.findings` does.

What may hang or crash, such as a GPU's driver, a compiler or a hub, is read in a process of its own: its functions and
records can be pickled. Functions import what takes seconds themselves, so that no process imports what it does not use.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli import one_line
from nas.files import check_writable, existing_folder
from nas.machine import cpu_count
from nas.scratch import scratch_folder
from search_space.memory import CGROUPS, PROC, control_group_limit, control_groups

if TYPE_CHECKING:
    from torch import Tensor, nn

SHARED_MEMORY = Path("/dev/shm")
# Instruction sets that PyTorch's CPU kernels use, by their names in /proc/cpuinfo on x86 and on Arm.
INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "amx_tile": "AMX",
    "amx_bf16": "AMX BF16",
    "asimd": "NEON",
    "sve": "SVE",
    "bf16": "BF16",
}
HUB_FILE = ("timm/resnet18.a1_in1k", "model.safetensors")  # of the kind that teachers are
STEP_ARCH, STEP_BATCH, STEP_PX = "eradio_pico", 16, 64  # a training step as the default search takes it, but smaller
STEP_S = 1.0  # to time it in both precisions
RAY_SOCKET = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"  # the longest path of a session


@dataclass(frozen=True)
class Unread:
    """What stands for a reading that failed.

    Attributes:
        reason: Why it failed, in one line.
    """

    reason: str


@dataclass(frozen=True)
class CpuReading:
    """The processor.

    Attributes:
        model: Its name.
        machine: Its kind, as x86_64 or aarch64.
        instructions: Values of `INSTRUCTIONS` that it has; None where the system does not say.
        cpus: CPUs that this process may use.
        quota: CPUs whose time the control group grants; None for no limit.
        system: The operating system, as Linux or Darwin.
    """

    model: str
    machine: str
    instructions: tuple[str, ...] | None
    cpus: int
    quota: float | None
    system: str = "Linux"


@dataclass(frozen=True)
class MemoryReading:
    """The memory in bytes; `limit` is that of the control group, None for no limit."""

    total: int
    available: int
    limit: int | None

    @property
    def usable(self) -> int:
        """The bytes that this process and its children may use."""
        return self.total if self.limit is None else min(self.total, self.limit)


@dataclass(frozen=True)
class PrecisionReading:
    """Median milliseconds of a training step by precision, timed interleaved."""

    step_ms: dict[str, float]


@dataclass(frozen=True)
class FolderReading:
    """A folder, which may not exist yet, and the disk under it: 0 bytes are free where it cannot be looked at."""

    path: str
    free_bytes: int
    problem: str = ""  # why it cannot be written; "" where it can


@dataclass(frozen=True)
class HubReading:
    """The model hub: the seconds that it took to answer, or why it did not; neither where it is switched off."""

    seconds: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class RayReading:
    """Ray: its version and the folder of its sessions."""

    version: str
    folder: str


@dataclass(frozen=True)
class TeachersReading:
    """The packages of built-in teachers' weights that are missing, and the command that installs them."""

    missing: tuple[str, ...]
    command: str


def read_cpu(proc: Path = PROC, cgroups: Path = CGROUPS) -> CpuReading:
    """Read the processor and how much of it this process gets."""
    from nas.measure.environment import cpu_model

    return CpuReading(
        cpu_model(),
        platform.machine(),
        _instructions(proc),
        cpu_count(),
        _cpu_quota(proc, cgroups),
        platform.system(),
    )


def _instructions(proc: Path) -> tuple[str, ...] | None:
    with suppress(OSError):
        for line in (proc / "cpuinfo").read_text().splitlines():
            name, _, flags = line.partition(":")
            if name.strip() in ("flags", "Features"):
                present = set(flags.split())
                return tuple(words for flag, words in INSTRUCTIONS.items() if flag in present)
    return None


def _cpu_quota(proc: Path, cgroups: Path) -> float | None:
    """Return the smallest quota of the process's control groups; microseconds a period in both versions."""
    quotas = []
    for folder in control_groups(proc, cgroups):
        with suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            quotas.append(int(quota) / int(period))  # "max" is no number
        with suppress(OSError, ValueError):
            quota_us = int((folder / "cpu.cfs_quota_us").read_text())  # -1 for none
            quotas.append(quota_us / int((folder / "cpu.cfs_period_us").read_text()))
    return min((quota for quota in quotas if quota > 0), default=None)


def read_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> MemoryReading:
    """Read the memory and the limit of the process's control groups."""
    total = available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, KeyError, ValueError, IndexError):
        lines = (proc / "meminfo").read_text().splitlines()
        fields = {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines)}
        total, available = fields["MemTotal"], fields["MemAvailable"]
    return MemoryReading(total, available, control_group_limit(proc, cgroups))


def read_precision(device: str, seconds: float = STEP_S) -> PrecisionReading:
    """Time a training step in fp32 and under bf16 autocast, interleaved."""
    import numpy as np
    import torch

    from backbones import resolve
    from nas.measure.round_robin import interleaved_times
    from nas.measure.timers import timer_for

    where = torch.device(device)
    torch.set_num_threads(cpu_count())
    model = resolve(STEP_ARCH)[1].to(where)
    images = torch.randn(STEP_BATCH, 3, STEP_PX, STEP_PX, device=where)
    calls = {name: partial(_step, model, images, name == "bf16") for name in ("fp32", "bf16")}
    times = interleaved_times(calls, timer_for(where), seconds, np.random.default_rng(0))
    return PrecisionReading({name: 1e3 * timed.time_s.value for name, timed in times.items()})


def _step(model: nn.Module, images: Tensor, bf16: bool) -> None:
    import torch

    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        loss = model(images).float().square().mean()
    loss.backward()  # type: ignore[no-untyped-call]


def read_folder(path: Path) -> FolderReading:
    """Read whether a folder can be written, and how much its disk has free."""
    free_bytes = 0
    try:
        free_bytes = shutil.disk_usage(existing_folder(path)).free
        check_writable(path)
    except OSError as error:
        return FolderReading(str(path), free_bytes, error.strerror or one_line(error))
    return FolderReading(str(path), free_bytes)


def read_hub() -> HubReading:
    """Ask the model hub for the size of one file."""
    from huggingface_hub import constants

    from nas.study.teacher_names import TeacherError
    from nas.teachers.weights import hub_bytes

    if constants.HF_HUB_OFFLINE:
        return HubReading()
    start = time.perf_counter()
    try:
        hub_bytes("resnet18", *HUB_FILE)
    except TeacherError as error:
        return HubReading(problem=one_line(error.__cause__ or error))
    return HubReading(time.perf_counter() - start)


def read_ray() -> RayReading:
    """Import Ray, and bind sockets where its sessions have theirs.

    Raises:
        OSError: A socket cannot be bound.
    """
    import_module("nas.backend.ray_tune")
    with scratch_folder("nas-ray-") as scratch:
        path = scratch / RAY_SOCKET
        path.parent.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
    return RayReading(metadata.version("ray"), tempfile.gettempdir())


def read_packages() -> tuple[str, ...]:
    """Return the requirements of this package that the installed packages do not keep, each as one phrase."""
    from packaging.requirements import Requirement

    problems = []
    with suppress(metadata.PackageNotFoundError):  # run from a copy of its files
        for requirement in map(Requirement, metadata.requires("backbone-nas") or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                problems += _unkept(requirement)
    return tuple(problems)


def _unkept(requirement: Any) -> list[str]:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return [f"{requirement.name} is not installed"]
    kept = requirement.specifier.contains(version, prereleases=True)
    return [] if kept else [f"{requirement.name} {version} is not {requirement.specifier}"]


def read_teachers() -> TeachersReading:
    """Read which of the built-in teachers' weights are not installed."""
    from nas.teachers.weights import BUILTIN, install_command, locate

    missing = tuple(weights.package for weights in BUILTIN if locate(weights) is None)
    return TeachersReading(missing, install_command())
