"""The memory that this process can have, and the refusal of a network that does not fit into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from search_space.checks import SpecError

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60  # bytes; a limit of version 1 of control groups that is larger stands for none


def control_groups(proc: Path = PROC, cgroups: Path = CGROUPS) -> Iterator[Path]:
    """Yield the folders of the process's control groups, each group's own and those above it.

    A line of /proc/self/cgroup is "NUMBER:CONTROLLERS:PATH"; version 2 names no controllers. A container may see a path
    of the host that it does not have: then only the folders above exist.
    """
    with suppress(OSError, ValueError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            root = cgroups / controllers
            own = root / path.strip("/")
            yield own
            yield from (folder for folder in own.parents if folder.is_relative_to(root))


def control_group_limit(proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """Return the smallest limit of memory of the process's control groups in bytes; None: there is none."""
    limits = []
    for folder in control_groups(proc, cgroups):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # no such file, or "max"
                limits.append(int((folder / name).read_text()))
    return min((limit for limit in limits if limit < _UNLIMITED), default=None)


def memory_bytes() -> int:
    """Return the bytes of memory that this process can have: the machine's, or less where a limit is set.

    Windows tells none of them, and counts as unlimited: exports for transformers contain this file.
    """
    try:
        import resource
    except ImportError:
        return _UNLIMITED
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), resource.getrlimit(resource.RLIMIT_AS)[0]]
    limits += [limit for limit in [control_group_limit()] if limit is not None]
    return min(limit for limit in limits if limit > 0)  # RLIM_INFINITY is -1


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
