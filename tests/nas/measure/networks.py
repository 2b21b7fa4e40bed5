"""A small network for tests of runtimes, its images, and checks of what a runtime returns or refuses."""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from nas.measure.runtime_spec import ArmError
from nas.measure.runtimes import runner

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def has_onnxruntime() -> bool:
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


needs_small_pages = pytest.mark.skipif(
    "glibc" not in platform.libc_ver() or (HUGE_PAGES.exists() and "[always]" in HUGE_PAGES.read_text()),
    reason="needs glibc's allocator, and a kernel that does not use huge pages for all memory",
)
needs_onnxruntime = pytest.mark.skipif(
    not has_onnxruntime(),
    reason="needs the extra 'onnx': pip install -e '.[onnx]'",
)


class Out(NamedTuple):
    summary: Tensor
    spatial: Tensor


class Net(nn.Module):
    """One convolution and its mean: nothing that Inductor must call a C++ compiler for but the mean."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)
        nn.init.constant_(self.conv.bias, value)

    def encode(self, images):
        spatial = self.conv(images)
        return Out(spatial.mean((2, 3)), spatial)


def ready(net: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    return net.eval().requires_grad_(False).to(dtype=dtype, memory_format=torch.channels_last)


def images(batch: int = 2, px: int = 32, seed: int = 0, layout: torch.memory_format = torch.channels_last) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, px, px, generator=generator).contiguous(memory_format=layout)


def check(run, net, x, tolerance: float = 1e-4) -> None:
    """The same tensors in the same order, to `tolerance` of the largest value."""
    with torch.inference_mode():
        want, got = tree_leaves(net.encode(x)), tree_leaves(run(x))
    assert [t.shape for t in got] == [t.shape for t in want]
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance * max(1.0, float(theirs.abs().max())))


def refusal(runtime: str, net, x) -> str:
    with pytest.raises(ArmError) as caught:
        runner(runtime, net, x)
    assert "\n" not in str(caught.value)
    return str(caught.value)
