"""What a process finds on its machine: the cache and lock folders, variables of the environment, CPUs."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

from nas.files import check_writable
from nas.scratch import private_folder
from nas.validation import ConfigError


def cache_root(folder: str | None = None) -> Path:
    """Return the cache folder: `folder`, else the variable BACKBONE_NAS_CACHE, else ~/.cache/backbone-nas."""
    default = os.environ.get("BACKBONE_NAS_CACHE", str(Path.home() / ".cache" / "backbone-nas"))
    return Path(default if folder is None else folder)


def check_cache(folder: str | None) -> None:
    """Raise ConfigError where the cache folder cannot be made or written."""
    root = cache_root(folder)
    try:
        check_writable(root)
    except OSError as error:
        raise ConfigError(f"--cache: cannot write {str(root)!r}: {error.strerror}") from None


def lock_dir() -> Path:
    """Return the user's folder of device locks on this machine, which keep two commands from measuring at once.

    Raises:
        PermissionError: Another user has a folder of its name, or it is a link.
    """
    return private_folder(Path(tempfile.gettempdir()) / f"backbone-nas-{os.geteuid()}")


def checkpoint_interval_s() -> float:
    """Return the seconds of training between checkpoints: the variable BACKBONE_NAS_CHECKPOINT_S, else 30.

    Raises:
        ValueError: The variable is no number of 0 or more.
    """
    value = os.environ.get("BACKBONE_NAS_CHECKPOINT_S", "30")
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise ValueError(f"BACKBONE_NAS_CHECKPOINT_S: {value!r}: must be a number of seconds, 0 or more")
    return seconds


def cpu_count() -> int:
    """Return the number of CPUs that this process may use, by its affinity if the system has one."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
