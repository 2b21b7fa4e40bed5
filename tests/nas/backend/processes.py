"""What processes of this machine do, by /proc."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def children(parent: int) -> list[int]:
    """Processes that a process has started and that are not gone."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(folder.name))
    return found


def trainings(parent: int) -> list[int]:
    """Those of `children` that `multiprocessing` has spawned to train."""
    return [pid for pid in children(parent) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return "State:\tZ" in (Path("/proc") / str(pid) / "status").read_text()
    except OSError:
        return True
