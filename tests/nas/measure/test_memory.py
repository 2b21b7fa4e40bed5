"""Bisection finds what fits, and errors of memory are told from others."""

import mmap

import pytest
import torch

from nas.measure.memory import largest_fitting, out_of_memory


@pytest.mark.parametrize("limit", range(8))
def test_bisection_finds_the_largest_that_fits(limit):
    assert largest_fitting(lambda n: n <= limit, 0, 8) == limit


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
        "Triton Error [CUDA]: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    ],
)
def test_memory_of_a_card_ends_outside_the_allocator_too(message):
    assert out_of_memory(RuntimeError(message))


def test_only_memory_counts_as_memory():
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("shape mismatch"))
    with pytest.raises(OSError, match="Cannot allocate memory") as mapped:
        mmap.mmap(-1, 1 << 60)
    assert out_of_memory(mapped.value)
    assert out_of_memory(RuntimeError("can't start new thread"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert out_of_memory(caught.value)
