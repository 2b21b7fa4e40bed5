"""GPUs for which a build of PyTorch has no kernels, which no command takes; the precision that suits a device."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nas.measure.devices import (
    DeviceError,
    compute_capability,
    cuda_is_available,
    device_type,
    fast_precision,
    has_kernels,
    remedy_without_kernels,
)
from nas.measure.environment import device_line
from nas.search.settings import command_of, new_config
from nas.validation import ConfigError

CU126 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
CU128 = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")
CU130 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")
ARM_CU130 = ("sm_80", "sm_90", "sm_100", "sm_110", "sm_120", "compute_120")
ROCM = ("gfx90a", "gfx942")


@pytest.mark.parametrize(
    ("capability", "archs", "runs"),
    [
        ((5, 2), CU126, True),  # a GTX 980, by kernels for 5.0
        ((6, 1), CU128, False),
        ((7, 0), CU130, False),  # a V100
        ((8, 9), CU130, True),  # an RTX 4090, by kernels for 8.6
        ((8, 7), CU130, False),  # an Orin: kernels for 8.0 and 8.6 are not for embedded GPUs
        ((8, 7), (*ARM_CU130, "sm_87"), True),
        ((12, 0), CU126, False),  # an RTX 5090 with an older build
        ((12, 1), ("sm_90", "sm_120"), True),
        ((13, 0), CU130, True),  # by PTX
        ((13, 0), CU130[:-1], False),
        ((7, 5), ("compute_80",), False),  # PTX is not compiled for older GPUs
        ((9, 0), ("sm_90a",), True),
        ((10, 0), ("sm_90a", "compute_90a"), False),
        ((10, 3), ("sm_100f",), True),
        ((9, 4), ROCM, True),  # no CUDA code, and nothing is known
        ((6, 1), (), True),
    ],
)
def test_which_gpus_a_build_computes_on(capability: tuple[int, int], archs: tuple[str, ...], runs: bool) -> None:
    assert has_kernels(capability, archs, "13.0") is runs


@pytest.mark.parametrize(("cuda", "runs"), [("12.8", False), ("13.0", False), ("13.2", True), ("14.0", True)])
def test_an_orin_runs_the_kernels_of_other_gpus_since_cuda_13_2(cuda: str, runs: bool) -> None:
    assert has_kernels((8, 7), ("sm_80", "sm_90"), cuda) is runs
    assert not has_kernels((8, 0), ("sm_87",), cuda)


@pytest.mark.parametrize("archs", [CU126, CU128, ARM_CU130, ("sm_53", "sm_62", "sm_72")])
@pytest.mark.parametrize(
    ("cuda", "table"), [("13.0", "DEVICE_REQUIREMENT"), ("13.2", "DEVICE_REQUIREMENT_POST_JETSON_SBSA_UNIFICATION")]
)
def test_the_rule_agrees_with_pytorch_s_own_warning(cuda: str, table: str, archs: tuple[str, ...]) -> None:
    compatible = getattr(torch.cuda, table, None)
    if compatible is None:
        pytest.skip("this PyTorch has no such table")
    binary = [arch for arch in archs if arch.startswith("sm_")]
    for code in (50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121):
        expected = any(code in compatible[int(arch.removeprefix("sm_"))] for arch in binary)
        assert has_kernels(divmod(code, 10), binary, cuda) is expected, code


@pytest.mark.parametrize(
    ("capability", "archs", "words"),
    [
        ((7, 0), CU130, "whl/cu126"),
        ((12, 0), CU126, "a newer PyTorch"),
        ((3, 5), CU126, "--device cpu"),
    ],
)
def test_the_remedy_is_a_build_that_has_the_kernels(
    capability: tuple[int, int], archs: tuple[str, ...], words: str
) -> None:
    assert words in remedy_without_kernels(capability, archs)


def have(monkeypatch: pytest.MonkeyPatch, *capabilities: tuple[int, int]) -> None:
    """Let this process see GPUs with a build for CUDA 13."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: capabilities[number])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(name="a GPU"))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(CU130))


def test_a_gpu_without_kernels_is_not_chosen_and_refused_by_name(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, (6, 1))
    assert not cuda_is_available()
    assert compute_capability() is None
    assert device_type("auto") == new_config({"device": "auto"}).device == "cpu"
    assert "no kernels for a GPU of compute capability 6.1; install" in device_line(torch.device("cpu"))
    with pytest.raises(DeviceError, match=r"'cuda:0': the installed PyTorch has no kernels .* 6\.1; .*cu126"):
        device_type("cuda:0")
    size = {"train_images": 64, "rung_steps": (1, 2)}
    with pytest.raises(ConfigError, match=r"--device: 'cuda': the installed PyTorch has no kernels .* 6\.1; .*cu126"):
        command_of({"device": "cuda", "run": str(tmp_path), **size}, "")


@pytest.mark.parametrize(
    ("device", "capability", "flags", "chosen"),
    [
        ("cuda", (8, 0), "", "bf16"),
        ("cuda", (7, 5), "amx_bf16", "fp32"),
        ("cpu", (8, 0), "avx512_bf16", "fp32"),
        ("cpu", None, "avx512_bf16 amx_bf16 amx_tile", "bf16"),
        ("cpu", None, "avx512_bf16\nvendor_id : AuthenticAMD", "bf16"),
        ("cpu", None, None, "fp32"),
    ],
)
def test_bf16_is_for_devices_with_units_for_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    capability: tuple[int, int] | None,
    flags: str | None,
    chosen: str,
) -> None:
    cpu = tmp_path / "cpuinfo"
    if flags is not None:
        cpu.write_text(f"processor : 0\nflags\t\t: fpu {flags}\n")
    monkeypatch.setattr("nas.measure.devices._CPU_INFO", cpu)
    monkeypatch.setattr("nas.measure.devices.compute_capability", lambda: capability)
    assert fast_precision(device) == chosen
    if device == "cpu":
        assert new_config({"device": device}).teacher_precision == chosen
