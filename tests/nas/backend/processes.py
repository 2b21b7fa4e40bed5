"""The processes of this machine, from /proc."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def _children() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            found.setdefault(parent, []).append(int(folder.name))
    return found


def children(parent: int) -> list[int]:
    """Return the running processes that a process has started."""
    return _children().get(parent, [])


def descendants(ancestor: int) -> list[int]:
    """Return the running processes that a process has started, their children included."""
    by_parent, found = _children(), [ancestor]
    for process in found:
        found += by_parent.get(process, [])
    return found[1:]


def session(leader: int) -> set[int]:
    """Return the running processes of a session."""
    pids = set()
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if os.getsid(pid := int(folder.name)) == leader and not gone(pid):
                pids.add(pid)
    return pids


def trainings(parent: int) -> list[int]:
    """Return the children that `multiprocessing` has spawned to train."""
    return [pid for pid in children(parent) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def gone(pid: int) -> bool:
    """Return whether a process has ended, reaped or not."""
    try:
        return "State:\tZ" in (Path("/proc") / str(pid) / "status").read_text()
    except OSError:
        return True


def blocked_signals(pid: int) -> set[int]:
    """Return the numbers of the signals that a process blocks."""
    status = (Path("/proc") / str(pid) / "status").read_text()
    mask = int(status.partition("SigBlk:")[2].split()[0], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}
