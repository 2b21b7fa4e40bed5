"""Peak memory of one forward: weights, buffers, one batch of inputs and the activations alive at the worst moment.

Three kinds, for they answer different questions. Allocated: what tensors need. On a card that is its allocator's peak,
what else lies there taken off; on a CPU every tensor storage that an operator made is followed until it is freed, and
the kernels' own scratch memory is not seen. Reserved: what the process took from the system for it. Driver: all that
the process holds on the card, context and libraries included.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nas.measure.conditions import card_uuid, driver_bytes, nvml

MIB = 2**20
_RESET_PEAK = "5"  # written to /proc/self/clear_refs: proc(5)


@dataclass(frozen=True)
class Peaks:
    """MiB at the worst moment; None is what cannot be known here."""

    allocated_mib: float | None
    reserved_mib: float | None
    driver_mib: float | None = None


def peak_memory(call: Callable[[], object], model: nn.Module, images: Tensor, followed: bool = True) -> Peaks:
    """Memory that `call` (the model on `images`) needs. followed: PyTorch's own operators run, so tensors can be seen.

    On a CPU the first call of all tells most: later ones find the memory that it took.
    """
    fixed = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers(), images))
    if images.device.type == "cuda":
        return _card_peaks(call, fixed, images.device, followed)
    activations: list[int] = []
    reserved = _resident_growth(lambda: activations.append(_host_peak(call)) if followed else call())
    return Peaks(
        allocated_mib=(fixed + activations[0]) / MIB if followed else None,
        reserved_mib=None if reserved is None else (fixed + reserved) / MIB,
    )


def _card_peaks(call: Callable[[], object], fixed: int, device: torch.device, followed: bool) -> Peaks:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    out = call()
    torch.cuda.synchronize(device)
    del out
    allocated = torch.cuda.max_memory_allocated(device) - before
    reserved = torch.cuda.max_memory_reserved(device)
    library = nvml()
    driver = driver_bytes(library, card_uuid(device)) if library else None
    return Peaks(
        allocated_mib=(fixed + allocated) / MIB if followed else None,
        reserved_mib=reserved / MIB,
        driver_mib=None if driver is None else driver / MIB,
    )


def _resident_growth(call: Callable[[], object]) -> int | None:
    """Bytes by which the peak of the resident set exceeds what was resident before; None where /proc doesn't tell."""
    own = Path("/proc/self")
    try:
        (own / "clear_refs").write_text(_RESET_PEAK)
        before = _status_bytes("VmRSS")
    except (OSError, KeyError):
        call()
        return None
    call()
    return max(0, _status_bytes("VmHWM") - before)


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(found[name].split()[0]) * 1024


def _host_peak(call: Callable[[], object]) -> int:
    # Not inference mode: there composite operators (linear, attention) hide their intermediate results from the mode.
    live = LiveStorages()
    with torch.inference_mode(False), torch.no_grad(), live:
        call()
    return live.peak_bytes


class LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the storages that operators made inside this mode and that are still alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = 0
        self.peak_bytes = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and not func.is_view:
                self._follow(leaf.untyped_storage(), args)
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return out

    def _follow(self, storage: torch.UntypedStorage, args: Any) -> None:
        key = storage._cdata
        given = {a.untyped_storage()._cdata for a in tree_leaves(args) if isinstance(a, Tensor)}
        if key in self.known or key in given:
            return  # seen before, or an in-place operator on a tensor from outside
        self.known.add(key)
        self.live_bytes += storage.nbytes()
        weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live_bytes -= size
