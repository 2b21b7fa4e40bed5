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

_NAME = re.compile(r"auto|cpu|cuda(:\d{1,4})?")
_DRIVER = "libcuda.so.1"


class DeviceError(ValueError):
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
    raise unavailable(name, ("auto", "cpu"))


def unavailable(name: str, choices: Sequence[str]) -> DeviceError:
    """Return the error of a device that this machine does not have."""
    return DeviceError(f"device: {name!r} is not available here; choices: {', '.join(choices)}")


def cuda_is_available() -> bool:
    """Return whether PyTorch sees a GPU; torch is imported only where that is possible."""
    if "torch" not in sys.modules and _cannot_have_cuda():
        return False
    import torch

    return torch.cuda.is_available()


def compute_capability() -> tuple[int, int] | None:
    """Return CUDA's compute capability of the oldest GPU that PyTorch sees; None where it sees none."""
    if not cuda_is_available():
        return None
    import torch

    gpus = range(torch.cuda.device_count())
    return min((torch.cuda.get_device_capability(number) for number in gpus), default=None)


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
