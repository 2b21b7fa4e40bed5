"""Data-parallel training of one student: every rank takes its slice of a batch, DDP averages the gradients.

A step of any number of ranks equals the step of one process with the whole batch, up to rounding and BatchNorm. On
CUDA, BatchNorm normalizes over the whole batch (SyncBatchNorm). On CPU, where PyTorch has no SyncBatchNorm, a rank
normalizes over its own slice, and the running statistics are averaged. Without a process group, no function here has an
effect.

Ranks of one machine meet through a file and talk over the loopback interface, because PyTorch's own rendezvous would
listen on the network; ranks of a cluster need it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm as to_sync_batchnorm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")
Value = TypeVar("Value", int, tuple[Any, ...])
PATIENCE = timedelta(days=1)  # of ranks that wait for rank 0, which evaluates and writes alone
GPU_PATIENCE = timedelta(minutes=30)  # of GPUs that wait for another rank's batch or compilation


@contextmanager
def process_group(rank: int, world_size: int, rendezvous: Path | str, device: str = "cpu") -> Iterator[None]:
    """Make this process one of `world_size` ranks within the block.

    Args:
        rank: 0, 1, ... below `world_size`.
        world_size: number of processes.
        rendezvous: the same for all ranks: path of a file that does not exist yet, for ranks of one machine, or
            "tcp://HOST:PORT", a free port of the machine of rank 0.
        device: "cuda" needs the rank's own GPU as the current device.
    """
    if isinstance(rendezvous, Path):
        loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", loopback)
    dist.init_process_group(
        backends(device.startswith("cuda")),
        init_method=f"file://{rendezvous}" if isinstance(rendezvous, Path) else rendezvous,
        rank=rank,
        world_size=world_size,
        timeout=PATIENCE,
    )
    limit_gpu_waits()
    yield
    dist.destroy_process_group()  # not after an error: it would wait for ranks that are gone


def backends(cuda: bool) -> str:
    """Return what carries tensors: those of the CPU are exchanged without a wait for what is queued on the GPU."""
    return "cpu:gloo,cuda:nccl" if cuda else "gloo"


def limit_gpu_waits() -> None:
    """Let exchanges between GPUs, in which all ranks are about to take a step, end this process after `GPU_PATIENCE`.

    The GPUs compute all the time while they wait. Ranks wait for rank 0 in exchanges between CPUs, see `barrier`.
    """
    group = dist.group.WORLD
    assert group is not None
    cpu, cuda = (group._get_backend(torch.device(device)) for device in ("cpu", "cuda"))
    if cuda is not cpu:  # gloo alone is the backend of both
        cuda._set_default_timeout(GPU_PATIENCE)


def rank() -> int:
    """Return the number of this process among those that train the student."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return how many processes train the student."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_reduce_mean(values: Tensor) -> Tensor:
    """Return the mean of every rank's `values`, the same on all ranks."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world_size()


def any_rank(flag: bool) -> bool:
    """Return whether the flag of any rank is set, the same on all ranks."""
    return flag if world_size() == 1 else bool(all_reduce_mean(torch.tensor(float(flag))) > 0)


def distinct(value: Value) -> list[Value]:
    """Return the different values, numbers or tuples, that the ranks give, rising, the same on all ranks."""
    if world_size() == 1:
        return [value]
    values = [value] * world_size()
    dist.all_gather_object(values, value)
    return sorted(set(values))


def barrier() -> None:
    """Wait until all ranks have arrived here, without work for their GPUs: a kernel of NCCL would spin there."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1))


class RunningStatistics:
    """The running statistics of a module's BatchNorms, as far as each rank keeps its own."""

    def __init__(self, module: nn.Module) -> None:
        norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        unsynchronized = [] if world_size() == 1 else [m for m in norms if not isinstance(m, nn.SyncBatchNorm)]
        self._buffers = [b for m in unsynchronized for b in m.buffers() if b.is_floating_point()]

    def average(self) -> None:
        """Replace every rank's statistics by their mean over the ranks."""
        if self._buffers:
            means = all_reduce_mean(torch.cat([b.flatten() for b in self._buffers]))
            parts = torch.split(means, [b.numel() for b in self._buffers])
            torch._foreach_copy_(self._buffers, [p.view_as(b) for p, b in zip(parts, self._buffers, strict=True)])


def convert_sync_batchnorm(student: nn.Module, device: torch.device) -> None:
    """Make BatchNorms normalize over all ranks' images where the device supports it."""
    if world_size() > 1 and device.type == "cuda":
        to_sync_batchnorm(student)  # timm's: torch's own would drop the activations of timm's BatchNorms


def data_parallel(module: nn.Module, device: torch.device, *, find_unused_parameters: bool) -> nn.Module:
    """Return a module whose gradients are the means over the ranks.

    Args:
        module: returned as it is without a process group.
        device: where its parameters are.
        find_unused_parameters: whether a step can leave parameters without a gradient.
    """
    if world_size() == 1:
        return module
    devices: Sequence[int] | None = [torch.cuda.current_device()] if device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=devices, find_unused_parameters=find_unused_parameters)


@contextmanager
def no_gradient_sync(module: nn.Module) -> Iterator[None]:
    """Keep gradients on this rank within the block, which leaves one exchange for an accumulated batch."""
    if isinstance(module, DistributedDataParallel):
        with module.no_sync():
            yield
    else:
        yield
