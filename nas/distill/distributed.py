"""Several processes, the ranks, train one student: each takes its slice of every batch, DDP averages the gradients.

A step of any number of ranks is the step of one process with the whole batch, up to rounding and BatchNorm: on CUDA its
statistics are those of the whole batch (SyncBatchNorm); on CPU, where PyTorch has none, a rank normalises with those of
its own slice, and the running statistics are averaged. Without a process group everything here leaves things as they
are. Ranks meet through a file and talk over the loopback interface: PyTorch's own meeting point would listen to the
network, and to anybody.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def joined(rank: int, world: int, meeting_point: Path, device: str = "cpu") -> Iterator[None]:
    """This process is rank 0, 1, ... of `world` in the block. `meeting_point` is a file that nobody used before.

    On CUDA the current device is this rank's.
    """
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", loopback)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, init_method=f"file://{meeting_point}", rank=rank, world_size=world)
    yield
    dist.destroy_process_group()  # not after an error: it would wait for ranks that are gone


def rank() -> int:
    """The number of this process among those that train the student."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes train the student."""
    return dist.get_world_size() if dist.is_initialized() else 1


def mean_of_ranks(values: Tensor) -> Tensor:
    """The mean of every rank's `values`, the same on all."""
    if world() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world()


def meet() -> None:
    """Waits until all ranks are here."""
    if world() > 1:
        dist.barrier()


class RankStatistics:
    """The running statistics of a module's BatchNorms, where every rank keeps its own."""

    def __init__(self, module: nn.Module) -> None:
        norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        apart = [] if world() == 1 else [m for m in norms if not isinstance(m, nn.SyncBatchNorm)]
        self._buffers = [b for m in apart for b in m.buffers() if b.is_floating_point()]

    def average(self) -> None:
        """Gives all ranks the mean."""
        if self._buffers:
            means = mean_of_ranks(torch.cat([b.flatten() for b in self._buffers]))
            parts = torch.split(means, [b.numel() for b in self._buffers])
            torch._foreach_copy_(self._buffers, [p.view_as(b) for p, b in zip(parts, self._buffers, strict=True)])


def synchronise_norms(student: nn.Module, device: torch.device) -> None:
    """Makes BatchNorms normalise over all ranks' images, where the device can."""
    if world() > 1 and device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(student)  # type: ignore[no-untyped-call]


def distributed(objective: nn.Module, device: torch.device, *, some_unused: bool) -> nn.Module:
    """A module whose gradients are the means over the ranks. some_unused: a step may leave parameters without any."""
    if world() == 1:
        return objective
    devices: Sequence[int] | None = [torch.cuda.current_device()] if device.type == "cuda" else None
    return DistributedDataParallel(objective, device_ids=devices, find_unused_parameters=some_unused)


@contextmanager
def gradients_stay_here(module: nn.Module) -> Iterator[None]:
    """For all but the last part of an accumulated batch: one exchange of gradients a step."""
    if isinstance(module, DistributedDataParallel):
        with module.no_sync():
            yield
    else:
        yield
