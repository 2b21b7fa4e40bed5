"""The kind of device that timings are of: a study has one."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from nas.analysis.comparable import MEASURED_WITH
from nas.measure import environment
from nas.measure.conditions import restricted_mode
from nas.measure.devices import DeviceError
from nas.measure.environment import check_compute_mode, check_one_kind, device_kind, device_name
from nas.measure.runtime_spec import Arm
from nas.measure.runtime_traits import RUNTIMES
from nas.study.compatibility import recorded_device_kind
from tests.nas.doctor import gpus
from tests.nas.measure.networks import needs_onnxruntime


def install(patch: pytest.MonkeyPatch, *names: str) -> None:
    """Let this process see GPUs of these names."""
    patch.setattr(environment, "device_type", lambda name: "cuda")
    patch.setattr(torch.cuda, "device_count", lambda: len(names))
    patch.setattr(torch.cuda, "get_device_name", lambda device: names[getattr(device, "index", device)])


def test_gpus_of_one_kind_are_the_kind_of_their_study(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "NVIDIA L4", "NVIDIA L4")
    check_one_kind("cuda")
    recorded = {"device": "cuda:0", "device_name": device_name(torch.device("cuda", 0))}
    assert device_kind("cuda") == recorded_device_kind(recorded) == "NVIDIA L4"


def test_gpus_of_two_kinds_are_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "NVIDIA RTX 4090", "NVIDIA T400", "NVIDIA RTX 4090")
    with pytest.raises(DeviceError, match=r"RTX 4090 and NVIDIA T400; .*CUDA_VISIBLE_DEVICES=0"):
        check_one_kind("cuda")


@needs_onnxruntime
def test_an_environment_has_the_library_of_the_runtime_and_of_no_other() -> None:
    libraries = {package for traits in RUNTIMES.values() for package in traits.packages}
    assert libraries <= {*MEASURED_WITH}
    recorded = environment.environment("cpu", Arm("onnxruntime"), Arm("compiled"))
    installed = {name for name in ("onnxruntime", "onnxruntime-gpu") if recorded.get(name)}
    assert installed
    assert all(recorded[name] == metadata.version(name) for name in installed)
    assert recorded.keys() & libraries == installed
    assert not environment.environment("cpu", Arm()).keys() & libraries


@pytest.mark.parametrize(
    ("modes", "name"),
    [
        ((), ""),
        ((0, 0), ""),
        ((None,), ""),
        ((0, 3), "EXCLUSIVE_PROCESS"),
        ((2,), "PROHIBITED"),
    ],
)
def test_a_mode_that_keeps_a_second_process_off_is_named(modes: tuple[int | None, ...], name: str) -> None:
    assert restricted_mode(modes) == name


def test_a_gpu_for_one_process_is_refused_and_one_that_nvml_does_not_know_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = gpus.install(monkeypatch)
    monkeypatch.setattr(environment, "device_type", lambda name: "cuda")
    check_compute_mode("cuda")
    driver.mode = 3
    with pytest.raises(DeviceError, match=r"mode EXCLUSIVE_PROCESS: .*nvidia-smi -c 0"):
        check_compute_mode("cuda")
    properties = SimpleNamespace(name="a part of a GPU", uuid="2")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(driver, "nvmlDeviceGetHandleByUUID", raising(driver.NVMLError(driver.NVML_ERROR_NOT_FOUND)))
    check_compute_mode("cuda")
    monkeypatch.setattr(environment, "nvml", lambda: None)
    check_compute_mode("cuda")


def raising(error: Exception) -> Callable[[str], str]:
    def fail(uuid: str) -> str:
        raise error

    return fail


X86 = "processor\t: 0\nmodel name\t: AMD EPYC 9B14\nflags\t\t: fpu\n\nprocessor\t: 1\nmodel name\t: AMD EPYC 9B14\n"
ARM = "".join(f"CPU implementer\t: 0x41\nCPU part\t: {part}\n\n" for part in ("0xd44", "0xd44", "0xd4b"))


@pytest.mark.parametrize(("cpuinfo", "name"), [(X86, "AMD EPYC 9B14"), (ARM, "ARM 0x41/0xd44, 0x41/0xd4b"), ("", "")])
def test_arm_cpus_without_a_name_are_told_apart_by_their_designs(cpuinfo: str, name: str) -> None:
    assert environment.cpu_name(cpuinfo) == name
