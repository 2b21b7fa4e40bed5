"""The names of devices, checked without importing torch, which takes seconds."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from nas.measure.runtime_traits import MIN_BF16_CAPABILITY
from nas.validation import ConfigError

_NAME = re.compile(r"auto|cpu|cuda(:\d{1,4})?")
_CPU_INFO = Path("/proc/cpuinfo")
_DRIVER = "libcuda.so.1"
_ARCH = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")
_EMBEDDED = frozenset({(5, 3), (6, 2), (7, 2), (8, 7), (10, 1)})  # Tegra: the binaries of other GPUs do not run there
_UNIFIED = frozenset({(7, 2), (8, 7)})  # embedded GPUs that run them since CUDA 13.2
_CU126_OLDEST = (5, 0)
_CU126_COMMAND = "pip install --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl/cu126"


class DeviceError(ConfigError):
    """Raised for a device that this machine does not have."""


def device_type(name: str) -> str:
    """Return the type, "cpu" or "cuda", of the device "auto", "cpu", "cuda" or "cuda:N"; torch knows whether N exists.

    Raises:
        DeviceError: There is no such device.
    """
    if name == "cpu":
        return name
    if not _NAME.fullmatch(name):
        raise unavailable(name, ("auto", "cpu", "cuda", "cuda:N"))
    if cuda_is_available():
        return "cuda"
    if name == "auto":
        return "cpu"
    if reason := without_kernels():
        raise DeviceError(f"device: {name!r}: {reason}")
    raise unavailable(name, ("auto", "cpu"))


def unavailable(name: str, choices: Sequence[str]) -> DeviceError:
    """Return the error of a device that this machine does not have."""
    return DeviceError(f"device: {name!r} is not available here; choices: {', '.join(choices)}")


def cuda_is_available() -> bool:
    """Return whether PyTorch can compute on a GPU; torch is imported only where that is possible."""
    return _sees_gpu() and not without_kernels()


def compute_capability() -> tuple[int, int] | None:
    """Return CUDA's compute capability of the oldest GPU that PyTorch sees; None where it can compute on none."""
    return min(_capabilities(), default=None) if cuda_is_available() else None


def fast_precision(device: str) -> str:
    """Return "bf16" where a device has units for products in bf16, else "fp32".

    These are a GPU's tensor cores, a CPU's AMX, and AMD's AVX512-BF16. With Intel's AVX512-BF16 alone, training steps
    in bf16 took longer than in fp32.

    Args:
        device: "cpu" or "cuda".
    """
    if device != "cpu":
        return "bf16" if (compute_capability() or (0, 0)) >= MIN_BF16_CAPABILITY else "fp32"
    try:
        words = set(_CPU_INFO.read_text().split())
    except OSError:  # not Linux
        return "fp32"
    return "bf16" if "amx_bf16" in words or {"AuthenticAMD", "avx512_bf16"} <= words else "fp32"


def without_kernels() -> str:
    """Return why PyTorch computes on none of the GPUs that it sees, and what to do; "" where it may compute on one.

    A build has kernels for some GPUs only. On another one, the first kernel raises an error.
    """
    if not _sees_gpu():
        return ""
    import torch

    capabilities, archs = _capabilities(), torch.cuda.get_arch_list()
    if not capabilities or any(has_kernels(capability, archs, torch.version.cuda) for capability in capabilities):
        return ""
    newest = max(capabilities)
    known = f"the installed PyTorch has no kernels for a GPU of compute capability {dotted(newest)}"
    return f"{known}; {remedy_without_kernels(newest, archs)}"


def has_kernels(capability: tuple[int, int], archs: Sequence[str], cuda: str | None) -> bool:
    """Return whether a build of PyTorch can compute on a GPU.

    A kernel of sm_XY runs on GPUs of the same major version whose minor version is Y or more, but not on both a GPU and
    an embedded one; since CUDA 13.2, an Orin runs the kernels of other GPUs, as PyTorch 2.15's own warning has it. PTX,
    compute_XY, is compiled for newer GPUs. Kernels with the suffix "a" run on XY alone.

    Args:
        capability: Compute capability of the GPU.
        archs: What the build has, as `torch.cuda.get_arch_list` names it. It is True where that names no CUDA code.
        cuda: CUDA version that the build is for, as `torch.version.cuda` names it.
    """
    codes = [match for arch in archs if (match := _ARCH.fullmatch(arch))]
    unified = cuda is not None and tuple(map(int, cuda.split(".")[:2])) >= (13, 2)
    apart = _EMBEDDED - _UNIFIED if unified else _EMBEDDED
    return not codes or any(_runs(capability, *_code(match), apart) for match in codes)


def _code(match: re.Match[str]) -> tuple[str, tuple[int, int], str]:
    kind, major, minor, suffix = match.groups()
    return kind, (int(major), int(minor)), suffix


def _runs(
    capability: tuple[int, int], kind: str, code: tuple[int, int], suffix: str, apart: frozenset[tuple[int, int]]
) -> bool:
    if capability == code:
        return True
    if suffix == "a" or capability < code:
        return False
    if kind == "compute" and not suffix:
        return True
    return capability[0] == code[0] and code not in _EMBEDDED and capability not in apart


def remedy_without_kernels(capability: tuple[int, int], archs: Sequence[str]) -> str:
    """Return how to get a PyTorch that computes on a GPU for which this one has no kernels.

    Args:
        capability: Compute capability of the GPU.
        archs: What the build has.
    """
    oldest = min((_code(match)[1] for arch in archs if (match := _ARCH.fullmatch(arch))), default=(0, 0))
    if capability >= oldest:
        return "install a newer PyTorch: make clean setup"
    if capability >= _CU126_OLDEST:
        return f"install PyTorch's build for CUDA 12.6, which has them: {_CU126_COMMAND}"
    return "use a newer GPU, or --device cpu"


def dotted(capability: tuple[int, int]) -> str:
    """Return a compute capability as NVIDIA writes it: "7.5"."""
    return ".".join(map(str, capability))


def _sees_gpu() -> bool:
    if "torch" not in sys.modules and _cannot_have_cuda():
        return False
    import torch

    return torch.cuda.is_available()


def _capabilities() -> list[tuple[int, int]]:
    import torch

    return [torch.cuda.get_device_capability(number) for number in range(torch.cuda.device_count())]


@cache
def _cannot_have_cuda() -> bool:
    """Return whether PyTorch is surely without a GPU: it was built for none, or there is no driver of NVIDIA's."""
    with suppress(OSError, AttributeError, TypeError):
        built = Path(str(find_spec("torch").origin)).with_name("version.py").read_text()  # type: ignore[union-attr]
        without = {name for name in ("cuda", "hip") if re.search(rf"^{name}\b[^=]*= *None$", built, re.MULTILINE)}
        if without == {"cuda", "hip"}:
            return True
        if "hip" in without:
            return not _loads(_DRIVER)
    return False


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
