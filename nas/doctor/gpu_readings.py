"""Read the NVIDIA GPUs of this machine as `nas.doctor.readings` reads the rest: by PyTorch, NVML and device files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli import one_line
from nas.measure.conditions import GpuWatch, compute_mode, gpu_uuid, nvml
from nas.measure.devices import has_kernels

if TYPE_CHECKING:
    import torch

DEVICES = Path("/dev")
LOOK_BACK_NS = 2 * 10**9  # NVML samples the processes of a GPU every 1/6 to 1 s


@dataclass(frozen=True)
class Gpu:
    """A GPU that PyTorch sees; `capability` is CUDA's compute capability."""

    name: str
    total_bytes: int
    free_bytes: int
    capability: tuple[int, int]


@dataclass(frozen=True)
class GpuReading:
    """The NVIDIA GPUs and what is known of them.

    Attributes:
        gpus: Those that PyTorch sees.
        present: Number of GPUs that the system has, whether PyTorch sees them or not.
        built_for: CUDA version that PyTorch is built for; None for a CPU build.
        hidden: Value of CUDA_VISIBLE_DEVICES; None where it is not set.
        reason: What PyTorch says where it sees no GPU; "" where it says nothing.
        driver: Version of the driver; None without NVML.
        watched: Whether NVML knows the GPUs that PyTorch sees.
        unknown: What NVML does not report of them, in words.
        others: Number of other processes whose work on one of them would disturb a measurement.
        archs: GPUs that PyTorch has kernels for, as `torch.cuda.get_arch_list` names them.
        modes: Compute mode of each GPU that PyTorch sees, see `compute_mode`; none without NVML.
    """

    gpus: tuple[Gpu, ...] = ()
    present: int = 0
    built_for: str | None = None
    hidden: str | None = None
    reason: str = ""
    driver: str | None = None
    watched: bool = False
    unknown: tuple[str, ...] = ()
    others: int = 0
    archs: tuple[str, ...] = ()
    modes: tuple[int | None, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether PyTorch can compute on one of the GPUs that it sees."""
        return any(has_kernels(gpu.capability, self.archs, self.built_for) for gpu in self.gpus)


def read_gpu(devices: Path = DEVICES, library_of: Callable[[], Any] = nvml) -> GpuReading:
    """Read the GPUs through PyTorch, NVML and the device files."""
    import torch

    library = library_of()
    gpus, reason = _visible_gpus()
    reading = GpuReading(
        gpus=gpus,
        present=library.nvmlDeviceGetCount() if library else len(list(devices.glob("nvidia[0-9]*"))),
        built_for=torch.version.cuda,
        hidden=os.environ.get("CUDA_VISIBLE_DEVICES"),
        reason=reason,
        driver=str(library.nvmlSystemGetDriverVersion()) if library else None,
        archs=tuple(torch.cuda.get_arch_list()),
        modes=tuple(
            compute_mode(library, gpu_uuid(torch.device("cuda", number)))
            for number in range(len(gpus) if library else 0)
        ),
    )
    return _watched(reading) if gpus else reading


def _visible_gpus() -> tuple[tuple[Gpu, ...], str]:
    """Return the GPUs that PyTorch sees, or its reason for seeing none."""
    import torch

    with warnings.catch_warnings(record=True) as caught:  # PyTorch warns of a driver that is too old, and says no more
        warnings.simplefilter("always")
        try:
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
            gpus = tuple(_gpu(torch.device("cuda", number)) for number in range(count))
        except RuntimeError as error:
            return (), one_line(error)
    return gpus, "" if gpus or not caught else " ".join(str(caught[0].message).split())


def _gpu(device: torch.device) -> Gpu:
    import torch

    properties = torch.cuda.get_device_properties(device)
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    return Gpu(properties.name, total_bytes, free_bytes, (properties.major, properties.minor))


def _watched(reading: GpuReading) -> GpuReading:
    """Return the reading with what NVML reports of the GPUs."""
    import torch

    from nas.measure.pair import watch_for

    watches = [watch_for(torch.device("cuda", number)) for number in range(len(reading.gpus))]
    unknown: list[str] = []
    others: set[int] = set()
    for watch in watches:
        if not isinstance(watch, GpuWatch):
            return reading
        watch.begin()
        unknown += watch.end().unknown
        working = _working(watch)
        unknown += ["the work of other processes"] if working is None else []
        others |= working or set()
    return replace(reading, watched=True, unknown=tuple(dict.fromkeys(unknown)), others=len(others))


def _working(watch: GpuWatch) -> set[int] | None:
    """Return the ids of other processes if they compute enough to disturb a measurement; None where it is unknown."""
    from nas.measure.verdicts import MAX_OTHER_GPU_SHARE

    shares = watch.shares_by_process(watch.wall_ns() - LOOK_BACK_NS)
    if shares is None:
        return None
    others = {pid: share for pid, share in shares.items() if share and pid != os.getpid()}
    return set(others) if sum(others.values()) > MAX_OTHER_GPU_SHARE else set()


def read_card(device: torch.device, library: Any) -> dict[str, Any]:
    """Return what a GPU's numbers depend on as JSON data: clocks in MHz, power limit in W; None where unknown."""

    def query(name: str, *arguments: Any) -> Any:
        with suppress(library.NVMLError):  # part of a GPU (MIG) has another name
            return getattr(library, name)(library.nvmlDeviceGetHandleByUUID(gpu_uuid(device)), *arguments)
        return None

    clocks = {"multiprocessor": library.NVML_CLOCK_SM, "memory": library.NVML_CLOCK_MEM}
    milliwatts = query("nvmlDeviceGetEnforcedPowerLimit")
    return {
        **asdict(_gpu(device)),
        "driver": str(library.nvmlSystemGetDriverVersion()),
        "clock_mhz": {name: query("nvmlDeviceGetClockInfo", kind) for name, kind in clocks.items()},
        "max_clock_mhz": {name: query("nvmlDeviceGetMaxClockInfo", kind) for name, kind in clocks.items()},
        "power_limit_w": None if milliwatts is None else milliwatts / 1e3,
        "temperature_c": query("nvmlDeviceGetTemperature", library.NVML_TEMPERATURE_GPU),
    }
