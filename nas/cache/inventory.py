"""What lies under a cache root, and what may go."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nas.cache.entry import CacheError, Part, remove
from nas.cache.targets import read_set

NAMES = re.compile(r"(images|targets(-[A-Za-z0-9._-]+)?)-[0-9a-f]{16}")  # nothing else is touched


@dataclass(frozen=True)
class Entry:
    """A part: `used` is seconds since the epoch; `state` is "complete", "half built" or "older format"."""

    folder: Path
    what: str
    images: int
    bytes: int
    used: float
    state: str


def entries(root: Path) -> list[Entry]:
    """All parts under `root`, the last used one first."""
    folders = [folder for folder in root.glob("*-*") if folder.is_dir() and NAMES.fullmatch(folder.name)]
    return sorted(map(entry, folders), key=lambda found: -found.used)


def entry(folder: Path) -> Entry:
    """A part as it is, even a broken one."""
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    mark = folder / "used"
    used = mark.stat().st_mtime if mark.exists() else max((stat.st_mtime for stat in files), default=0.0)
    what, rows, state = describe(Part(folder))
    return Entry(folder, what, rows, sum(stat.st_size for stat in files), used, state)


def describe(part: Part) -> tuple[str, int, str]:
    """What a part holds, how many images, and its state."""
    if not part.complete:
        paths = [path for path in part.working.glob("*.json") if path.stem.rpartition("-")[2].isdigit()]
        records = [json.loads(path.read_text()) for path in paths]
        return part.folder.name.rpartition("-")[0], sum(record["rows"] for record in records), "half built"
    try:
        manifest = part.manifest
    except CacheError:
        return part.folder.name.rpartition("-")[0], 0, "older format"
    what = f"{manifest['teacher']} {manifest['storage']}" if "teacher" in manifest else f"{manifest['data']} images"
    return what, sum(record["rows"] for record in manifest["shards"].values()), "complete"


def collect(root: Path, chosen: list[Entry], dry_run: bool) -> Iterator[tuple[Entry, bool]]:
    """Delete parts that no process holds, then the sets that name them; yields every part and whether it goes."""
    for found in chosen:
        yield found, remove(found.folder, dry_run)
    if dry_run:
        return
    for leaving in root.glob(".*.tmp/"):  # of a process that was killed while it deleted
        shutil.rmtree(leaving)
    for path in root.glob("set-*.json"):
        try:
            needed = read_set(path).parts
        except CacheError:
            needed = []
        if not needed or not all(part.folder.exists() for part in needed):
            path.unlink()
