"""Divide a student's parameters, gradients and optimizer state among the ranks: FSDP, for what one GPU cannot hold.

Checkpoints do not change: they hold whole tensors, so that any number of ranks, with or without sharding, continues.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from nas.distill import distributed


def shard(module: nn.Module, parts: Sequence[nn.Module], device: torch.device) -> nn.Module:
    """Divide the parameters of a module among the ranks, and return it; the gradients become means over the ranks.

    Args:
        module: The module, with contiguous parameters.
        parts: Modules in it of which only one at a time has to be whole on a rank.
        device: Where its parameters are, or are moved to.
    """
    assert dist.group.WORLD is not None
    mesh = DeviceMesh.from_group(dist.group.WORLD, device.type)
    for part in parts:
        fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor, which shares its memory; the tensor itself where it is not divided."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return a divided tensor as a whole in all ranks, which all have to call it; another tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(content: Any) -> Any:
    """Return nested plain data with whole tensors on the CPU in place of divided ones, in rank 0; elsewhere with None.

    All ranks have to call it. One tensor at a time is whole on the device.
    """
    return tree_map(_gathered, content)


def _gathered(value: Any) -> Any:
    if not isinstance(value, DTensor):
        return value
    whole = value.full_tensor()
    return whole.cpu() if distributed.rank() == 0 else None


def load_module(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what `gathered` gave rank 0 of a module's `state_dict()`; all ranks have to call it, with the same one."""
    current = module.state_dict()
    module.load_state_dict({name: _like(value, current[name]) for name, value in state.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load what `gathered` gave rank 0 of an optimizer's `state_dict()`, in all ranks as `load_module`."""
    parameters = [p.detach() for group in optimizer.param_groups for p in group["params"]]
    states = {
        number: {name: _like(value, parameters[number]) for name, value in each.items()}
        for number, each in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": states})


def _like(value: Tensor, like: Tensor) -> Tensor:
    """Return a copy of a whole tensor that is divided, and lies in memory, as one of the same shape does.

    The fused optimizers pair the elements of a parameter and of its moments by their places in memory.
    """
    if value.shape != like.shape:  # the number of an optimizer's steps
        return value
    if isinstance(like, DTensor):
        here = value.to(like.device, like.dtype, copy=True).contiguous()
        return distribute_tensor(here, like.device_mesh, like.placements, src_data_rank=None)
    return torch.empty_like(like).copy_(value)
