"""Refuse a network that this machine cannot hold before it is built."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path

from torch import nn

from search_space import SpecError

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container


def memory_bytes() -> int:
    """Return the bytes of memory that this process can have: the machine's, or less where a limit is set."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), resource.getrlimit(resource.RLIMIT_AS)[0]]
    with suppress(OSError, ValueError):  # no such file, or "max"
        limits.append(int(_CGROUP_LIMIT.read_text()))
    return min(limit for limit in limits if limit > 0)  # RLIM_INFINITY is -1


def count_parameters(model: nn.Module) -> int:
    """Return the number of a network's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def check_memory(name: str, params: int) -> None:
    """Raise SpecError for a network whose parameters in fp32 fill more than half of the memory.

    Measuring and exporting keep a copy, training keeps gradients and averages.

    Args:
        name: What the message calls the network.
        params: Number of its parameters.
    """
    allowed = memory_bytes() / 2
    if 4 * params > allowed:
        raise SpecError(
            f"arch: {name} has {params:,} parameters, {4 * params / 1e9:,.3g} GB in fp32;"
            f" allowed: {allowed / 1e9:,.3g} GB, half of the memory here"
        )
