"""Readings of this machine, for real, and of other machines from trees of files and a GPU that is not there."""

from __future__ import annotations

import platform
import socket
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants

from nas.doctor.gpu_readings import Gpu, read_card, read_gpu
from nas.doctor.readings import (
    HubReading,
    read_cpu,
    read_folder,
    read_hub,
    read_memory,
    read_packages,
    read_precision,
    read_ray,
)
from nas.machine import cpu_count
from nas.measure.conditions import nvml
from nas.measure.runtime_check import read_runtime
from tests.nas.doctor import gpus

NO_LIMIT_OF_V1 = "9223372036854771712"
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("line", "instructions"),
    [
        ("flags\t\t: fpu avx avx2 avx512f amx_tile amx_bf16 rdrand", ("AVX2", "AVX-512", "AMX", "AMX BF16")),
        ("flags\t\t: fpu avx", ()),
        ("Features\t: fp asimd sve bf16", ("NEON", "SVE", "BF16")),
        ("model name\t: a CPU", None),
    ],
)
def test_instructions_of_x86_and_arm(tmp_path: Path, line: str, instructions: tuple[str, ...] | None) -> None:
    proc = write(tmp_path, {"cpuinfo": f"processor\t: 0\n{line}\n\nprocessor\t: 1\n"})
    assert read_cpu(proc, tmp_path).instructions == instructions
    assert read_cpu(tmp_path / "none", tmp_path).instructions is None


@pytest.mark.parametrize(
    ("groups", "files", "memory", "cpus"),
    [
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": "4000", "a/b/cpu.max": "max 100000"}, 4000, None),
        ("0::/", {"memory.max": "8000\n", "cpu.max": "150000 100000"}, 8000, 1.5),
        ("0::/of/the/host", {"memory.max": "8000", "cpu.max": "50000 100000"}, 8000, 0.5),  # unseen in the container
        (
            "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x",
            {
                "memory/docker/x/memory.limit_in_bytes": "5000",
                "memory/memory.limit_in_bytes": NO_LIMIT_OF_V1,
                "cpu,cpuacct/docker/x/cpu.cfs_quota_us": "300000",
                "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
                "cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            5000,
            3.0,
        ),
        ("4:memory:/", {"memory/memory.limit_in_bytes": NO_LIMIT_OF_V1}, None, None),
        ("nonsense", {}, None, None),
    ],
)
def test_limits_of_control_groups(
    tmp_path: Path, groups: str, files: dict[str, str], memory: int | None, cpus: float | None
) -> None:
    meminfo = "MemTotal:       10 kB\nMemFree:   1 kB\nMemAvailable:   9 kB\nHugePages_Total:       0\n"
    proc = write(tmp_path / "proc", {"self/cgroup": groups, "meminfo": meminfo})
    cgroups = write(tmp_path / "cgroups", files)
    reading = read_memory(proc, cgroups)
    assert (reading.total, reading.available, reading.limit) == (10240, 9216, memory)
    assert reading.usable == (memory or 10240)
    assert read_cpu(proc, cgroups).quota == cpus


def test_this_machine() -> None:
    cpu, memory = read_cpu(), read_memory()
    assert (cpu.cpus, cpu.machine) == (cpu_count(), platform.machine())
    assert 0 < memory.available <= memory.total
    assert read_memory(Path("/none"), Path("/none")).total == pytest.approx(memory.total, rel=0.05)
    assert read_packages() == ()


# GPUs


def test_a_gpu_with_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = gpus.install(monkeypatch)
    driver.processes |= {4_000_001: 50}
    reading = read_gpu(library_of=lambda: driver)
    assert reading.gpus == (Gpu("Example H100", gpus.TOTAL_BYTES, gpus.FREE_BYTES, (9, 0)),)
    assert (reading.present, reading.driver, reading.watched, reading.others) == (1, "570.1", True, 1)
    assert (reading.unknown, reading.modes) == ((), (0,))
    driver.mode = 3
    assert read_gpu(library_of=lambda: driver).modes == (3,)
    driver.processes[4_000_001] = 1  # a screen disturbs no measurement
    assert read_gpu(library_of=lambda: driver).others == 0
    driver.tells_utilisation = False
    assert read_gpu(library_of=lambda: driver).unknown == ("the work of other processes",)


def test_a_process_on_the_second_gpu_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = gpus.install(monkeypatch)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def properties(device: torch.device) -> SimpleNamespace:
        return SimpleNamespace(name="Example H100", major=9, minor=0, uuid=str(device.index + 1))

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    samples = driver.nvmlDeviceGetProcessUtilization

    def of_second(handle: str, since_us: int) -> list[SimpleNamespace]:
        if handle == "GPU-1":
            raise driver.NVMLError(driver.NVML_ERROR_NOT_FOUND)
        return samples(handle, since_us)

    monkeypatch.setattr(driver, "nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
    monkeypatch.setattr(driver, "nvmlDeviceGetProcessUtilization", of_second)
    driver.processes = {4_000_001: 50}
    assert read_gpu(library_of=lambda: driver).others == 1


def test_a_gpu_that_pytorch_does_not_see_has_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def is_available() -> bool:
        warnings.warn("CUDA initialization: The NVIDIA driver\nis too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    write(tmp_path, {"nvidia0": "", "nvidia1": "", "nvidiactl": ""})
    reading = read_gpu(tmp_path, lambda: None)
    assert (reading.gpus, reading.present) == ((), 2)
    assert reading.reason == "CUDA initialization: The NVIDIA driver is too old"


def test_a_gpu_that_cannot_be_initialized_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = gpus.install(monkeypatch)

    def fail(device: torch.device) -> None:
        raise RuntimeError("CUDA error: no kernel image\nis available")

    monkeypatch.setattr(torch.cuda, "mem_get_info", fail)
    reading = read_gpu(library_of=lambda: driver)
    assert (reading.gpus, reading.reason) == ((), "CUDA error: no kernel image is available")


def test_the_card_of_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = gpus.install(monkeypatch)
    driver.clock_mhz = lambda: 1755
    card = read_card(torch.device("cuda", 0), driver)
    assert (card["name"], card["driver"], card["power_limit_w"]) == ("Example H100", "570.1", 700.0)
    assert card["clock_mhz"]["multiprocessor"] == 1755
    assert card["max_clock_mhz"] == {"multiprocessor": 1980, "memory": 2619}
    driver.reports_power = False
    assert read_card(torch.device("cuda", 0), driver)["power_limit_w"] is None


def test_the_card_of_a_part_of_a_gpu_has_no_values_of_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML does not know a MIG slice by the name that PyTorch has for it."""
    driver = gpus.install(monkeypatch)

    def unknown(uuid: str) -> str:
        raise driver.NVMLError(driver.NVML_ERROR_NOT_FOUND)

    monkeypatch.setattr(driver, "nvmlDeviceGetHandleByUUID", unknown)
    card = read_card(torch.device("cuda", 0), driver)
    assert (card["name"], card["driver"], card["power_limit_w"]) == ("Example H100", "570.1", None)
    assert card["clock_mhz"] == card["max_clock_mhz"] == {"multiprocessor": None, "memory": None}


@pytest.mark.gpu
@NO_GPU
def test_a_real_gpu() -> None:
    reading = read_gpu()
    assert len(reading.gpus) == torch.cuda.device_count() <= max(reading.present, len(reading.gpus))
    assert reading.built_for == torch.version.cuda
    if library := nvml():
        card = read_card(torch.device("cuda", 0), library)
        assert card["max_clock_mhz"]["multiprocessor"] >= card["clock_mhz"]["multiprocessor"] > 0
    assert set(read_precision("cuda", 0.2).step_ms) == {"fp32", "bf16"}
    assert read_runtime("compiled", "cuda", "bf16").correct


# Software and folders


@pytest.mark.slow
def test_a_training_step_is_timed_in_both_precisions() -> None:
    step_ms = read_precision("cpu", 0.05).step_ms
    assert set(step_ms) == {"fp32", "bf16"}
    assert all(0 < ms < 60_000 for ms in step_ms.values())


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    good, bad = read_folder(tmp_path / "new" / "runs"), read_folder(tmp_path / "file" / "runs")
    assert good.free_bytes > 0
    assert (good.problem, good.path) == ("", str(tmp_path / "new" / "runs"))
    assert not (tmp_path / "new").exists()
    assert bad.problem == "Not a directory"


def test_a_hub_that_is_silent_or_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr("nas.teachers.weights.HUB_TIMEOUT_S", 0.2)
        reading = read_hub()
    assert reading.seconds is None
    assert reading.problem
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert read_hub() == HubReading(None, "")


def test_ray_needs_a_folder_with_a_short_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert read_ray().version
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with pytest.raises(OSError, match="AF_UNIX"):
        read_ray()
