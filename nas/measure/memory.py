"""Measure the peak memory of one forward, and tell whether memory ran out.

The peak is that of weights, buffers, one batch of inputs and the activations. There are three figures. Allocated memory
is that of tensors. On a GPU it is the allocator's peak less what was allocated before; on a CPU every storage that an
operator creates is tracked until it is freed, without the kernels' scratch memory. Reserved memory is what PyTorch's
allocator took of a GPU, without what it only kept from earlier calls; on a CPU it is unknown. Driver memory is all that
the process holds on the GPU, context and libraries included.
"""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nas.measure.conditions import driver_bytes, gpu_uuid, nvml

MIB = 2**20
# Of PyTorch and its compiler, CUDA and its libraries, NCCL, other runtimes, the system (a file is mapped, a library
# loaded) and Python (a thread's stack is memory).
_NO_MEMORY = re.compile(
    r"(?<![a-z])out.?of.?memory|can(no|')t allocate memory|failed to allocate memory|bad_alloc|can't start new thread"
    r"|_ALLOC(ATION)?_FAILED",
    re.IGNORECASE,
)
# Of cuDNN and cuBLAS: of a full card, of shapes that they do not take, and of a broken installation (pytorch#108645).
_PERHAPS_NO_MEMORY = re.compile(r"unable to find an engine|CU(BLAS|DNN)_STATUS_NOT_INITIALIZED")
_MAX_FREE_SHARE, _MAX_FREE_BYTES = 0.02, 2**30  # of a full card, added


@dataclass(frozen=True)
class Peaks:
    """Peak memory in MiB; None where it is unknown."""

    allocated_mib: float | None
    reserved_mib: float | None
    driver_mib: float | None = None


def peak_memory(call: Callable[[], object], model: nn.Module, images: Tensor, tracked: bool = True) -> Peaks:
    """Return the memory that a call needs.

    Args:
        call: Runs the model on `images`.
        model: The model.
        images: The inputs.
        tracked: Whether PyTorch's own operators run, so that their tensors can be tracked.
    """
    fixed = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers(), images))
    if images.device.type == "cuda":
        return _gpu_peaks(call, fixed, images.device, tracked)
    return Peaks((fixed + _host_peak(call)) / MIB if tracked else None, reserved_mib=None)


def release_cached(device: str) -> None:
    """Give the memory that PyTorch keeps for this process on GPUs to others, as to a process that measures.

    Args:
        device: Name of a device; nothing is done for a CPU.
    """
    if device.startswith("cuda"):
        gc.collect()
        torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory of the device or the host ran out, whichever library raised it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or _NO_MEMORY.search(str(error)):
        return True
    return bool(_PERHAPS_NO_MEMORY.search(str(error))) and _is_card_full()


def _is_card_full() -> bool:
    try:
        free, whole = torch.cuda.mem_get_info()
    except (RuntimeError, AssertionError):  # the card answers no more, or there is none
        return False
    return free < _MAX_FREE_SHARE * whole + _MAX_FREE_BYTES


def largest_fitting(fits: Callable[[int], bool], fitting: int, failing: int) -> int:
    """Return the largest whole number that fits, by bisection between `fitting`, which does, and `failing`."""
    while failing - fitting > 1:
        middle = (fitting + failing) // 2
        fitting, failing = (middle, failing) if fits(middle) else (fitting, middle)
    return fitting


def _gpu_peaks(call: Callable[[], object], fixed: int, device: torch.device, tracked: bool) -> Peaks:
    torch.cuda.synchronize(device)
    release_cached(device.type)  # what compiling and the reference outputs took is not what the call needs
    torch.cuda.reset_peak_memory_stats(device)
    start_bytes = torch.cuda.memory_allocated(device)
    out = call()
    torch.cuda.synchronize(device)
    del out
    allocated = torch.cuda.max_memory_allocated(device) - start_bytes
    reserved = torch.cuda.max_memory_reserved(device)
    library = nvml()
    driver = driver_bytes(library, gpu_uuid(device)) if library else None
    return Peaks(
        allocated_mib=(fixed + allocated) / MIB if tracked else None,
        reserved_mib=reserved / MIB,
        driver_mib=None if driver is None else driver / MIB,
    )


def _host_peak(call: Callable[[], object]) -> int:
    # In inference mode, composite operators (linear, attention) would hide their intermediate results.
    live = LiveStorages()
    with torch.inference_mode(False), torch.no_grad(), live:
        call()
    return live.peak_bytes


class LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the bytes of living storages that operators created inside this mode, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = 0
        self.peak_bytes = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and not func.is_view:
                self._track(leaf.untyped_storage(), args)
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return out

    def _track(self, storage: torch.UntypedStorage, args: Any) -> None:
        key = storage._cdata
        inputs = {a.untyped_storage()._cdata for a in tree_leaves(args) if isinstance(a, Tensor)}
        if key in self._storages or key in inputs:
            return  # counted already, or an in-place operator on a tensor from outside
        self._storages.add(key)
        self.live_bytes += storage.nbytes()
        weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.live_bytes -= size
