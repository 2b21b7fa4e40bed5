"""List the entries under a cache root, and delete them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nas.cache.entry import CacheEntry, CacheError, remove
from nas.cache.targets import read_cache_set

NAMES = re.compile(r"(images|targets(-[A-Za-z0-9._-]+)?)-[0-9a-f]{16}")  # nothing else is touched


@dataclass(frozen=True)
class InventoryEntry:
    """An entry as it lies on disk.

    `used` is seconds since the epoch; `state` is "complete", "half built" or "older format".
    """

    folder: Path
    what: str
    images: int
    bytes: int
    used: float
    state: str


def list_entries(root: Path) -> list[InventoryEntry]:
    """List the entries under `root`, the last used one first."""
    folders = [folder for folder in root.glob("*-*") if folder.is_dir() and NAMES.fullmatch(folder.name)]
    return sorted(map(read_entry, folders), key=lambda entry: -entry.used)


def read_entry(folder: Path) -> InventoryEntry:
    """Read an entry as it is, even a broken one."""
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    mark = folder / "used"
    used = mark.stat().st_mtime if mark.exists() else max((stat.st_mtime for stat in files), default=0.0)
    what, rows, state = describe(CacheEntry(folder))
    return InventoryEntry(folder, what, rows, sum(stat.st_size for stat in files), used, state)


def describe(entry: CacheEntry) -> tuple[str, int, str]:
    """Return what an entry holds, of how many images, and its state."""
    if not entry.complete:
        paths = [path for path in entry.working.glob("*.json") if path.stem.rpartition("-")[2].isdigit()]
        records = [json.loads(path.read_text()) for path in paths]
        return entry.folder.name.rpartition("-")[0], sum(record["rows"] for record in records), "half built"
    try:
        manifest = entry.manifest
    except CacheError:
        return entry.folder.name.rpartition("-")[0], 0, "older format"
    what = f"{manifest['teacher']} {manifest['storage']}" if "teacher" in manifest else f"{manifest['data']} images"
    return what, sum(record["rows"] for record in manifest["shards"].values()), "complete"


def collect(root: Path, chosen: list[InventoryEntry], dry_run: bool) -> Iterator[tuple[InventoryEntry, bool]]:
    """Delete entries that no process holds, then the sets that name them; yields each entry and whether it goes."""
    for found in chosen:
        yield found, remove(found.folder, dry_run)
    if dry_run:
        return
    for leaving in root.glob(".*.tmp/"):  # of a process that was killed while it deleted
        shutil.rmtree(leaving)
    for path in root.glob("set-*.json"):
        try:
            needed = read_cache_set(path).entries
        except CacheError:
            needed = []
        if not needed or not all(entry.folder.exists() for entry in needed):
            path.unlink()
