"""Fill and read one entry of the cache: a folder of shards with a manifest.

Several processes, on one machine or many, can fill an entry together. A process claims a shard with a file lock, writes
the shard's files under temporary names, renames them, and writes the shard's record (rows, sizes, hashes) last. When
all records exist, one process merges them into the manifest, which makes the entry complete. Each file reaches the disk
before the next one is written, so that after a power cut a recorded shard is whole. If a user deletes a damaged array,
the manifest is divided into records again, and a build writes this shard alone.

The content of a shard depends on the entry's settings alone. If a network file system loses a lock, two processes write
the same shard twice, with the same rows; the later one replaces the earlier one's files and record.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from filelock import FileLock, Timeout

from nas.cli import OperationFailed
from nas.data import Split
from nas.data.dataset import digest
from nas.files import atomic_write, lock_file, parse_json
from search_space.checks import read_bytes

FORMAT = 2  # version of the content, part of every fingerprint: raise it when other numbers are stored
LAYOUT = 3  # version of the files, part of the names of entries and sets: raise it when the same numbers lie elsewhere
MAX_JSON_BYTES = 2**28  # of a manifest, which has under 1 kB a shard: 5,000 shards of ImageNet take 5 MB
SHARD_ITEMS = 256  # a multiple of the images in a mosaic
POLL_S = 0.1  # between attempts to claim shards that other processes write
ARRAY_SUFFIX = ".npy"
POSES_PREFIX = "poses-"  # of the files that `nas.cache.poses` adds to a complete entry
WORKING_FOLDER = "working"  # locks, records and raw features while an entry is incomplete; empty afterwards

Record = dict[str, Any]
Done = Callable[[int], None]


class CacheError(ValueError):
    """A teacher cache cannot be built or read. The message is one line and names the file."""


class CacheFailure(CacheError, OperationFailed):
    """A teacher cache cannot be built for a reason outside the command line, as a full disk."""


def damage(path: Path, problem: str) -> CacheError:
    """Return the error of a damaged file of an entry, with the way to have it written again."""
    if path.suffix == ARRAY_SUFFIX and path.parent.name != WORKING_FOLDER:
        again = "delete the file if it exists: the next search or cache build then writes its shard again"
        return CacheError(f"teacher cache: {path} is {problem}; {again}")
    return CacheError(f"teacher cache: {path} is {problem}; delete {path.parent} to rebuild it")


class Shard(NamedTuple):
    """Items `start` to `stop` of a split."""

    split: Split
    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Return the prefix of the shard's file names."""
        return f"{self.split}-{self.number:05d}"

    @property
    def items(self) -> int:
        """Return the number of items."""
        return self.stop - self.start


@dataclass(frozen=True)
class WrittenShards:
    """The shards whose records exist, or existed.

    Attributes:
        record: Returns the path of a shard's record.
        over: Tells whether the records of all shards were removed because they are no longer needed.
    """

    record: Callable[[Shard], Path]
    over: Callable[[], bool]

    def __contains__(self, shard: object) -> bool:
        # That they were removed is checked last: it may happen at this moment.
        return isinstance(shard, Shard) and (self.record(shard).exists() or self.over())

    def missing(self, shards: Iterable[Shard]) -> list[Shard]:
        """Return the shards that are not written. Each folder of records is listed once."""
        paths = {shard: self.record(shard) for shard in shards}
        found: set[Path] = set()
        for folder in {path.parent for path in paths.values()}:
            with suppress(FileNotFoundError):
                found.update(folder.iterdir())
        return [] if self.over() else [shard for shard, path in paths.items() if path not in found]

    def count_missing(self, shards: Iterable[Shard]) -> int:
        """Count the items of the shards that are not written."""
        return sum(shard.items for shard in self.missing(shards))


def shards_of(split: Split, count: int) -> list[Shard]:
    """Divide `count` items into shards of SHARD_ITEMS; the last one may be smaller."""
    starts = range(0, count, SHARD_ITEMS)
    return [Shard(split, number, start, min(start + SHARD_ITEMS, count)) for number, start in enumerate(starts)]


@dataclass(frozen=True)
class CacheEntry:
    """One entry of the cache, described in this module's docstring. `folder` need not exist yet."""

    folder: Path

    @classmethod
    def of(cls, root: Path, kind: str, fingerprint: str) -> CacheEntry:
        """Return the entry of a content in the cache folder `root`."""
        return cls(root / f"{kind}-{digest([LAYOUT, fingerprint])}")

    @property
    def manifest_path(self) -> Path:
        """Return the path of the manifest, which exists once the entry is complete."""
        return self.folder / "manifest.json"

    @property
    def working(self) -> Path:
        """Return the folder of locks, records and raw features."""
        return self.folder / WORKING_FOLDER

    @property
    def complete(self) -> bool:
        """Tell whether all shards and the manifest are written."""
        return self.manifest_path.exists()

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Return the manifest's content; CacheError if it is missing, damaged or of another version."""
        try:
            return read_json(self.manifest_path)
        except FileNotFoundError:
            problem = "is missing: another command builds the entry now, or a build was interrupted"
            again = "run the same command again, or backbone-nas cache build"
            raise CacheError(f"teacher cache: {self.manifest_path} {problem}; {again}") from None
        except OSError:
            raise damage(self.manifest_path, "unreadable") from None

    def open(self) -> None:
        """Make the folder and mark it as used by this process, see `mark_in_use`."""
        self.working.mkdir(parents=True, exist_ok=True)
        mark_in_use(self.folder)

    @property
    def written(self) -> WrittenShards:
        """Return the shards that are written. Their records are removed after the manifest was written."""
        return WrittenShards(self.record_path, lambda: self.complete)

    def record_path(self, shard: Shard) -> Path:
        """Return the path of a shard's record."""
        return self.working / f"{shard.name}.json"

    def record(self, shard: Shard, rows: int, paths: Iterable[Path], **details: Any) -> None:
        """Record that a shard is written; `details` become part of the manifest."""
        content = {"rows": rows, **details, "files": {path.name: size_and_hash(path) for path in paths}}
        write_json(self.record_path(shard), content)

    def fill(
        self, shards: Sequence[Shard], written: WrittenShards, write: Callable[[Shard, Done], None], done: Done
    ) -> None:
        """Write a split's missing shards, sharing the work with other processes; return when all are written.

        Each process begins at another shard: else they would all try the lock of the first one, then of the next.

        Args:
            shards: All shards of the split.
            written: Tells which shards exist.
            write: Writes one shard, and reports how many of its items are done.
            done: Called with the number of the split's items that are done.
        """
        missing = written.missing(shards)
        first = secrets.randbelow(len(missing)) if missing else 0
        missing = missing[first:] + missing[:first]
        count = sum(shard.items for shard in shards) - sum(shard.items for shard in missing)
        if count:
            done(count)
        while missing:
            claimed_elsewhere = []
            for shard in missing:
                if shard not in written:
                    try:
                        with self.lock(shard.name, wait=False):
                            if shard not in written:
                                write(shard, partial(_within, done, count, shard))
                    except Timeout:
                        claimed_elsewhere.append(shard)
                        continue
                count += shard.items
                done(count)
            missing = claimed_elsewhere
            if missing:
                time.sleep(POLL_S)

    @contextmanager
    def lock(self, name: str, wait: bool = True) -> Iterator[None]:
        """Hold a lock between threads, processes and nodes; raises Timeout if another holds it and `wait` is false.

        The process that completes the entry removes the lock files, possibly at this moment. After taking a lock, check
        again what is written: the entry may be complete.
        """
        self.working.mkdir(parents=True, exist_ok=True)
        with FileLock(self.working / f"{name}.lock", blocking=wait):
            yield

    def finish(
        self, shards: Sequence[Shard], files: Iterable[Path], describe: Callable[[dict[str, Record]], Record]
    ) -> None:
        """Write the manifest after all shards are written, and empty the working folder.

        Only the process that writes the manifest removes files of killed writers, and of this entry's shards alone: the
        poses may be under way.

        Args:
            shards: All shards of the entry.
            files: Files that belong to no shard.
            describe: Makes the manifest's other content from the shards' records.
        """
        with self.lock("manifest"):
            if not self.complete:
                records = {shard.name: read_json(self.record_path(shard)) for shard in shards}
                listed = {path.name: size_and_hash(path) for path in files}
                for record in records.values():
                    listed |= record.pop("files")
                write_json(self.manifest_path, {**describe(records), "shards": records, "files": listed})
                for unfinished in self.folder.glob("*.tmp"):
                    if not unfinished.name.startswith(POSES_PREFIX):
                        unfinished.unlink(missing_ok=True)
        # The working folder stays, since another process may be about to create a lock in it.
        for leftover in self.working.iterdir():
            leftover.unlink(missing_ok=True)

    def reopen(self) -> None:
        """Make a complete entry incomplete where arrays were deleted: a build then writes their shards alone."""
        if not self.complete or not os.access(self.folder, os.W_OK) or not self._lost_shards():
            return
        with self.lock("manifest"):
            self.__dict__.pop("manifest", None)  # another process may have written the shards meanwhile
            if self.complete and (lost := self._lost_shards()):
                files: dict[str, Record] = {name: {} for name in self.manifest["shards"]}
                for name, listed in self.manifest["files"].items():
                    files.get(_shard_name(name), {})[name] = listed
                for name in files.keys() - lost:
                    write_json(self.working / f"{name}.json", self.manifest["shards"][name] | {"files": files[name]})
                self.manifest_path.unlink()
        self.__dict__.pop("manifest", None)

    def _lost_shards(self) -> set[str]:
        """Return the names of the shards of a complete entry of which an array is missing; none of an incomplete one.

        Another process may make the entry incomplete at this moment.
        """
        try:
            files = self.manifest["files"]
        except CacheError:
            if self.complete:
                raise
            return set()
        present = {path.name for path in self.folder.iterdir()}
        arrays = (name for name in files if name.endswith(ARRAY_SUFFIX))
        return {_shard_name(name) for name in arrays if name not in present}

    def check(self, hashes: bool = False, arrays: bool = True) -> None:
        """Check the size of every file, and its content.

        Args:
            hashes: Whether to hash arrays too; their rows are checked when they are read, see `nas.cache.shards`.
            arrays: Whether to look at arrays at all: there may be a hundred thousand.

        Raises:
            CacheError: A file is missing or altered; the message names the first one.
        """
        files = self.manifest["files"].items()
        listed = self._sizes() if arrays else {}
        for name, expected in files:
            path = self.folder / name
            if path.suffix == ARRAY_SUFFIX and not arrays:
                continue
            size = listed.get(name) if arrays else (path.stat().st_size if path.is_file() else None)
            if size != expected["bytes"]:
                actual = "missing" if size is None else f"{size} bytes, not {expected['bytes']}"
                raise damage(path, f"truncated or altered ({actual})")
            if (hashes or path.suffix != ARRAY_SUFFIX) and size_and_hash(path) != expected:
                raise damage(path, "altered (other content)")

    def _sizes(self) -> dict[str, int]:
        """Return the bytes of every file of the folder by its name; nothing where there is no folder.

        Files that vanish meanwhile are left out: others may be written into a complete entry and renamed.
        """
        sizes: dict[str, int] = {}
        with suppress(FileNotFoundError), os.scandir(self.folder) as found:
            for file in found:
                with suppress(FileNotFoundError):
                    if file.is_file():
                        sizes[file.name] = file.stat().st_size
        return sizes


def _shard_name(file: str) -> str:
    """Return the name of the shard of an array's file: "train-00001" of "train-00001-spatial.npy"."""
    return "-".join(file.split("-", 2)[:2])


def _within(done: Done, before: int, shard: Shard, items: int) -> None:
    """Report progress inside a shard; `CacheEntry.fill` reports its end."""
    if items < shard.items:
        done(before + items)


def size_and_hash(path: Path) -> dict[str, Any]:
    """Return size and sha256 of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, with its layout and a checksum."""
    sealed = {"layout": LAYOUT, **content}
    atomic_write(path, json.dumps(sealed | {"sha256": _json_hash(sealed)}, indent=1), sync=True)


def read_json(path: Path) -> dict[str, Any]:
    """Return the content that `write_json` wrote.

    Raises:
        OSError: The file cannot be read.
        CacheError: It is damaged, altered or of another version.
    """
    try:
        content = parse_json(read_bytes(path, MAX_JSON_BYTES))
        written = content.pop("sha256")
        intact = content.pop("layout") == LAYOUT and written == _json_hash({"layout": LAYOUT, **content})
    except (ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        raise damage(path, "damaged or of another version")
    return dict(content)


def _json_hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


_marks: dict[Path, BinaryIO] = {}


def mark_in_use(folder: Path) -> None:
    """Mark a folder as in use until this process ends, so that `remove_unless_in_use` keeps it.

    The mark is a shared lock on the folder's file ``used``, whose modification time is the time of the last use. In a
    folder of another user, which this process can only read, it takes the lock and leaves the time.
    """
    mark = folder / "used"
    if folder.exists() and not os.access(folder, os.W_OK):
        with suppress(OSError):
            readable: BinaryIO = _marks.get(folder) or mark.open("rb")
            lock_file(readable, fcntl.LOCK_SH, folder)
            _marks[folder] = readable
        return
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        file = _marks.pop(folder, None) or mark.open("ab+")  # NFS needs a file that can be read for a shared lock
        lock_file(file, fcntl.LOCK_SH, folder)
        if mark.exists() and os.path.samestat(os.fstat(file.fileno()), mark.stat()):
            break
        file.close()  # another process removed the folder before the lock was taken
    _marks[folder] = file
    os.utime(mark)


def remove_unless_in_use(folder: Path, dry_run: bool = False) -> bool:
    """Delete a folder unless a process uses it; return whether it is (with `dry_run`, would be) deleted."""
    # Rename the folder first: a process may start to build it while its files are being deleted.
    renamed = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    with ExitStack() as stack:
        if (folder / "used").exists():
            file = stack.enter_context((folder / "used").open("ab"))
            try:
                lock_file(file, fcntl.LOCK_EX | fcntl.LOCK_NB, folder)
            except BlockingIOError:
                return False
        if dry_run:
            return True
        folder.rename(renamed)
    shutil.rmtree(renamed)  # with no file open: NFS would keep that file and the folder
    return True
