"""List the entries in a cache folder, and delete them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any

from nas.cache.entry import CacheEntry, CacheError, read_json, remove_unless_in_use
from nas.cache.targets import precision_of, read_cache_set

ENTRY_NAME = re.compile(r"(images|targets(-[A-Za-z0-9._-]+)?)-[0-9a-f]{16}")  # other folders are never listed
COMPLETE, INCOMPLETE, OTHER_FORMAT = "complete", "incomplete", "other format"


@dataclass(frozen=True)
class InventoryEntry:
    """An entry on disk.

    Args:
        folder: Its folder.
        content: Its images or its teacher, in words.
        images: Number of images.
        bytes: Size on disk.
        last_used: Seconds since the epoch.
        state: COMPLETE, INCOMPLETE or OTHER_FORMAT.
    """

    folder: Path
    content: str
    images: int
    bytes: int
    last_used: float
    state: str


def list_entries(root: Path) -> list[InventoryEntry]:
    """List the entries under `root`, the most recently used first."""
    folders = [folder for folder in root.glob("*-*") if folder.is_dir() and ENTRY_NAME.fullmatch(folder.name)]
    return sorted(map(read_entry, folders), key=lambda entry: -entry.last_used)


def read_entry(folder: Path) -> InventoryEntry:
    """Read an entry's state, even if it is incomplete or damaged."""
    files = {
        path: status for path, status in map(_with_status, folder.rglob("*")) if status and S_ISREG(status.st_mode)
    }
    mark = files.get(folder / "used")
    last_used = mark.st_mtime if mark else max((status.st_mtime for status in files.values()), default=0.0)
    content, images, state = describe(CacheEntry(folder))
    return InventoryEntry(folder, content, images, sum(status.st_size for status in files.values()), last_used, state)


def _with_status(path: Path) -> tuple[Path, os.stat_result | None]:
    """Return a path and its status; None where a build has renamed or deleted the file meanwhile."""
    try:
        return path, path.stat()
    except FileNotFoundError:
        return path, None


def describe(entry: CacheEntry) -> tuple[str, int, str]:
    """Return an entry's content in words, its number of images, and its state."""
    if not entry.complete:
        paths = [path for path in entry.working.glob("*.json") if path.stem.rpartition("-")[2].isdigit()]
        return entry.folder.name.rpartition("-")[0], sum(map(_rows, paths)), INCOMPLETE
    try:
        manifest = entry.manifest
    except CacheError:
        return entry.folder.name.rpartition("-")[0], 0, OTHER_FORMAT
    is_teacher = "teacher" in manifest
    content = _targets_in_words(manifest) if is_teacher else f"{manifest['data']} images"
    return content, sum(record["rows"] for record in manifest["shards"].values()), COMPLETE


def _targets_in_words(manifest: Mapping[str, Any]) -> str:
    precision = precision_of(manifest)
    return f"{manifest['teacher']} {manifest['storage']}{'' if precision == 'fp32' else f', computed in {precision}'}"


def _rows(record: Path) -> int:
    """Return the rows of a shard by its record; 0 where this is damaged, or removed meanwhile."""
    try:
        return int(read_json(record)["rows"])
    except (OSError, CacheError):
        return 0


def delete_entries(
    root: Path, entries: list[InventoryEntry], dry_run: bool = False
) -> Iterator[tuple[InventoryEntry, bool]]:
    """Delete the entries that no process uses, then the sets that name them.

    Yields:
        Each entry, and whether it is (with `dry_run`, would be) deleted.
    """
    for entry in entries:
        yield entry, remove_unless_in_use(entry.folder, dry_run)
    if dry_run:
        return
    for renamed in root.glob(".*.tmp/"):  # left by a process that was killed while it deleted an entry
        shutil.rmtree(renamed)
    for path in root.glob("set-*.json"):
        try:
            needed = read_cache_set(path).entries
        except CacheError:
            needed = []
        if not needed or not all(entry.folder.exists() for entry in needed):
            path.unlink()
