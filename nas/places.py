"""What this machine gives the commands: a cache and lock folder for what outlives them, and its CPUs."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path


def cache_root(given: str | None = None) -> Path:
    """`given`, else the variable BACKBONE_NAS_CACHE, else ~/.cache/backbone-nas."""
    fallback = os.environ.get("BACKBONE_NAS_CACHE", str(Path.home() / ".cache" / "backbone-nas"))
    return Path(fallback if given is None else given)


def lock_dir() -> Path:
    """One folder a user on this machine, in which each device has its own (`nas.measure.environment.device_key`), so
    that two commands do not measure beside each other.
    """
    return Path(tempfile.gettempdir()) / f"backbone-nas-{os.getuid()}"


def cpu_count() -> int:
    """Return how many CPUs this process may use: of its affinity, where the system knows one."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def checkpoint_interval_s() -> float:
    """Seconds of training that a killed process may lose: the variable BACKBONE_NAS_CHECKPOINT_S, else 30."""
    given = os.environ.get("BACKBONE_NAS_CHECKPOINT_S", "30")
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise ValueError(f"BACKBONE_NAS_CHECKPOINT_S: {given!r}: must be a number of seconds, 0 or more")
    return seconds


def checkpoint_path(folder: Path, arch_id: str) -> Path:
    """Where the training of an architecture leaves its checkpoint while it is under way."""
    return folder / f"{arch_id}.pt"
