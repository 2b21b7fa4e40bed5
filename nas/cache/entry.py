"""Fill an entry of the cache: a folder of shards that several processes fill together, complete with its manifest.

A shard is claimed by a file lock, its files get their names when they are complete, and its record (rows, sizes,
hashes) comes last. Content depends on the plan alone, so a lock that is lost on some network file system costs double
work, no harm. When all records are there, one process gathers them into the manifest.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from filelock import FileLock, Timeout

from nas.data import Split
from nas.files import atomic_write

FORMAT = 2  # raise it when the files change meaning
SHARD = 256  # items: a multiple of the images in a mosaic
POLL_S = 0.1
WORKING = "working"  # folder of what is gone once an entry is complete (locks, records, raw features); empty then

Record = dict[str, Any]
Done = Callable[[int], None]


class CacheError(ValueError):
    """A teacher cache that cannot be built or trusted. One line that names the file."""


class Shard(NamedTuple):
    """Items `start` to `stop` of a split."""

    split: Split
    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:05d}"


def shards_of(split: Split, count: int) -> list[Shard]:
    """Divide `count` items into shards of constant size, the last one smaller."""
    starts = range(0, count, SHARD)
    return [Shard(split, number, start, min(start + SHARD, count)) for number, start in enumerate(starts)]


@dataclass(frozen=True)
class CacheEntry:
    """One entry of the cache, see the module. `folder` need not exist yet."""

    folder: Path

    @property
    def manifest_path(self) -> Path:
        return self.folder / "manifest.json"

    @property
    def working(self) -> Path:
        return self.folder / WORKING

    @property
    def complete(self) -> bool:
        return self.manifest_path.exists()

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Its content. Raises CacheError if it cannot be read or is of another format."""
        try:
            content: dict[str, Any] = json.loads(self.manifest_path.read_text())
            readable = content["format"] == FORMAT and bool(content["files"]) and bool(content["shards"])
        except (OSError, ValueError, KeyError, TypeError):
            readable = False
        if not readable:
            raise CacheError(f"teacher cache: {self.manifest_path} is unreadable; delete {self.folder} to rebuild it")
        return content

    def open(self) -> None:
        """Make the folder and hold it, see `hold`."""
        self.working.mkdir(parents=True, exist_ok=True)
        hold(self.folder)

    def has(self, shard: Shard) -> bool:
        # The manifest is asked last: records are removed after it was written.
        return self.record_path(shard).exists() or self.complete

    def record_path(self, shard: Shard) -> Path:
        return self.working / f"{shard.name}.json"

    def record(self, shard: Shard, rows: int, paths: Iterable[Path], **about: Any) -> None:
        """Record that a shard is there; `about` goes into the manifest."""
        content = {"rows": rows, **about, "files": {path.name: identity(path) for path in paths}}
        write_json(self.record_path(shard), content)

    def fill(
        self,
        shards: Sequence[Shard],
        there: Callable[[Shard], bool],
        make: Callable[[Shard, Done], None],
        done: Done,
    ) -> None:
        """`make` every shard of a split that is not `there`, beside others who do the same; ends when all are.

        `done` hears how many items are there; `make` tells how many of its own.
        """
        count, missing = 0, list(shards)
        while missing:
            elsewhere = []
            for shard in missing:
                if not there(shard):
                    try:
                        with self.lock(shard.name, wait=False):
                            if not there(shard):
                                make(shard, partial(_within, done, count, shard))
                    except Timeout:
                        elsewhere.append(shard)
                        continue
                count += shard.stop - shard.start
                done(count)
            missing = elsewhere
            if missing:
                time.sleep(POLL_S)

    @contextmanager
    def lock(self, name: str, wait: bool = True) -> Iterator[None]:
        """Hold a lock between threads, processes and nodes; raises Timeout where it is held and `wait` is false.

        Who finishes the entry removes the lock's file, perhaps at this moment: whoever gets a lock has to ask again
        what is there, and finds the entry complete.
        """
        self.working.mkdir(parents=True, exist_ok=True)
        with FileLock(self.working / f"{name}.lock", blocking=wait):
            yield

    def finish(
        self, shards: Sequence[Shard], files: Iterable[Path], about: Callable[[dict[str, Record]], Record]
    ) -> None:
        """Write the manifest once every shard is there: `about` makes its content from the shards' records."""
        with self.lock("manifest"):
            if not self.complete:
                records = {shard.name: json.loads(self.record_path(shard).read_text()) for shard in shards}
                listed = {path.name: identity(path) for path in files}
                for record in records.values():
                    listed |= record.pop("files")
                write_json(self.manifest_path, {"format": FORMAT, **about(records), "shards": records, "files": listed})
        # The folder stays: another builder may be about to make a lock in it.
        for rest in [*self.working.iterdir(), *self.folder.glob("*.tmp")]:
            rest.unlink(missing_ok=True)

    def check(self, hashes: bool) -> None:
        """Check every file's size, with `hashes` also its content.

        Raises:
            CacheError: A file is missing or altered; the message names the first.
        """
        for name, expected in self.manifest["files"].items():
            path = self.folder / name
            size = path.stat().st_size if path.is_file() else None
            if size != expected["bytes"]:
                found = "missing" if size is None else f"{size} bytes, not {expected['bytes']}"
                raise CacheError(self._spoiled(path, f"truncated or altered ({found})"))
            if hashes and identity(path) != expected:
                raise CacheError(self._spoiled(path, "altered (other content)"))

    def _spoiled(self, path: Path, how: str) -> str:
        return f"teacher cache: {path} is {how}; delete {self.folder} to rebuild it"


def _within(done: Done, before: int, shard: Shard, own: int) -> None:
    """Report items inside a shard; its end is reported when it is there."""
    if own < shard.stop - shard.start:
        done(before + own)


def identity(path: Path) -> dict[str, Any]:
    """Return size and sha256 of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    atomic_write(path, json.dumps(content, indent=1))


_held: dict[Path, BinaryIO] = {}


def hold(folder: Path) -> None:
    """Mark a folder as used, now and until this process ends: `remove` leaves it alone meanwhile."""
    mark = folder / "used"
    if folder.exists() and not os.access(folder, os.W_OK):
        return  # somebody else's, to be read only
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        file = _held.pop(folder, None) or mark.open("ab")
        fcntl.flock(file, fcntl.LOCK_SH)
        if mark.exists() and os.path.samestat(os.fstat(file.fileno()), mark.stat()):
            break
        file.close()  # the folder was removed while we waited, or since
    _held[folder] = file
    os.utime(mark)


def remove(folder: Path, dry_run: bool = False) -> bool:
    """Delete a folder unless a process holds it; returns whether it is (or would be) gone."""
    with ExitStack() as stack:
        if (folder / "used").exists():
            file = stack.enter_context((folder / "used").open("ab"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        if not dry_run:
            # Out of the way first: a builder may come while the files go one by one.
            leaving = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
            folder.rename(leaving)
            shutil.rmtree(leaving)
    return True
