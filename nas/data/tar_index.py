"""The samples of a tar shard: where their images and masks lie, and their labels.

Indexing reads the headers of all files, some 80 microseconds a sample with two files next to the image (two busy CPUs,
2026): 10 million samples take a process a quarter of an hour. So the index of a shard that took longer than KEPT_S is
kept in a folder, and every other process reads it there. Processes that begin together index shards in different orders
(`nas.data.webdataset.ShardSelection`).
"""

from __future__ import annotations

import json
import tarfile
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from nas.data.dataset import DataError, digest, read_file
from nas.files import atomic_write, parse_json

IMAGE_FIELDS = ("jpg", "jpeg", "png", "webp")
MASK_FIELDS = ("mask.png", "seg.png")
LABEL_FIELDS = ("cls", "json")
BLOCK_BYTES = 512
MAX_LABEL = 999_999
NO_INDEX = -1  # in place of a label that is no class index
KEPT_S = 0.2
_FORMAT = 1  # of a kept index; another one where other members, labels or reasons are read from a shard


class Member(NamedTuple):
    """The place of one file's bytes inside a shard."""

    shard: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Read the file's bytes; DataUnavailable if the shard cannot be read."""
        return read_file(self.shard, self.offset, self.size)


class ShardIndex(NamedTuple):
    """The samples of a shard that have an image, and by reason the names of what is left out."""

    samples: tuple[TarSample, ...]
    left_out: dict[str, tuple[str, ...]]


class TarSample(NamedTuple):
    """A sample of a shard; `key` is the shard's name and the path up to the first dot of the file's name."""

    key: str
    image: Member
    mask: Member | None
    label: int | None


def read_index(path: Path, name: str, folder: Path | None = None) -> ShardIndex:
    """Index the samples of an uncompressed tar file that have an image.

    Pixels stay on disk; labels are read.

    Args:
        path: The file.
        name: Its name in keys and messages.
        folder: Folder that keeps indexes; None to keep none.

    Raises:
        DataError: The file is no tar, or ends too early.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"--data webdataset: cannot read shard '{path}': {error.strerror}") from error
    return _index_of_version(path, name, status.st_size, status.st_mtime_ns, folder)


@cache  # both splits of one pattern, and a plan before its search, open the same shards
def _index_of_version(path: Path, name: str, size: int, mtime_ns: int, folder: Path | None) -> ShardIndex:
    """Index one version of a file, or read its kept index."""
    kept = folder / f"{digest([_FORMAT, str(path), name, size, mtime_ns])}.json" if folder else None
    if kept and (index := _kept_index(kept, path)):
        return index
    began = time.monotonic()
    index = _indexed(path, name)
    if kept and time.monotonic() - began > KEPT_S:
        with suppress(OSError):  # it only saves time
            kept.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(kept, json.dumps(_plain(index)))
    return index


def _plain(index: ShardIndex) -> dict[str, Any]:
    samples = [[s.key, *s.image[1:], *(s.mask[1:] if s.mask else (None, None)), s.label] for s in index.samples]
    return {"samples": samples, "left_out": index.left_out}


def _kept_index(kept: Path, path: Path) -> ShardIndex | None:
    """Return a kept index of the shard at `path`; None where there is none, or it is damaged."""
    try:
        plain = parse_json(kept.read_bytes())
        samples = tuple(
            TarSample(
                str(key),
                Member(path, int(offset), int(size)),
                None if mask is None else Member(path, int(mask), int(mask_size)),
                None if label is None else int(label),
            )
            for key, offset, size, mask, mask_size, label in plain["samples"]
        )
        return ShardIndex(samples, {str(why): tuple(map(str, names)) for why, names in plain["left_out"].items()})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None


def _indexed(path: Path, name: str) -> ShardIndex:
    fields: dict[str, dict[str, Member]] = {}
    links: list[str] = []
    replaced: list[str] = []
    labels: dict[str, int | None] = {}
    short = name.rpartition("/")[2]
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                if not info.isreg():
                    links += [] if info.isdir() else [f"{short}/{info.name}"]
                    continue
                folder, slash, base = info.name.rpartition("/")
                stem, _, field = base.partition(".")
                key, field = f"{short}/{folder}{slash}{stem}", field.lower()
                members = fields.setdefault(key, {})
                again = field in members
                replaced += [f"{short}/{info.name}"] if again else []
                members[field] = Member(path, info.offset_data, info.size)
                wanted = field in LABEL_FIELDS and (again or labels.get(key) in (None, NO_INDEX))
                file = tar.extractfile(info) if wanted else None
                if file:
                    labels[key] = label_in(file.read(), field, key)
            end = Member(path, tar.offset, BLOCK_BYTES).read()
        if end != bytes(BLOCK_BYTES):  # tarfile takes a damaged or missing header for the end
            raise tarfile.ReadError(f"truncated or damaged at byte {tar.offset}")
    except (tarfile.TarError, OSError) as error:
        where = f"'{name}'" if name == str(path) else f"'{name}', here as '{path}',"
        raise DataError(f"--data webdataset: cannot read shard {where} as an uncompressed tar: {error}") from error
    samples, without, unusable = [], [], []
    for key, members in fields.items():
        label = labels.get(key)
        if image := first_member(members, IMAGE_FIELDS):
            unusable += [key] if label == NO_INDEX else []
            label = None if label == NO_INDEX else label
            samples.append(TarSample(key, image, first_member(members, MASK_FIELDS), label))
        else:
            without.append(key)
    left_out = {
        f"samples without an image ({', '.join(IMAGE_FIELDS)})": tuple(without),
        "links and devices": tuple(links),
        "files that a later one of the same name replaces": tuple(replaced),
        f"labels other than an integer from 0 to {MAX_LABEL:,}": tuple(unusable),
    }
    return ShardIndex(tuple(samples), left_out)


def first_member(fields: dict[str, Member], names: Iterable[str]) -> Member | None:
    """Return the first of the named fields that the sample has."""
    return next((fields[name] for name in names if name in fields), None)


def label_in(content: bytes, field: str, key: str) -> int | None:
    """Return the class index of a ``cls`` file, or of "label" or "cls" in JSON.

    Returns:
        None where JSON has neither, or null. NO_INDEX for -1, and for any other value in JSON: these files describe an
        image in words too.

    Raises:
        DataError: The content is no JSON, or the ``cls`` file holds another text.
    """
    text = content.decode("utf-8", "replace").strip()
    values: list[Any] = [text]
    if field == "json":
        try:
            about = parse_json(text)
        except ValueError as error:
            raise DataError(f"--data webdataset: {key}.json is not JSON: {error}") from error
        named = [about.get(name) for name in ("label", "cls")] if isinstance(about, dict) else []
        # pandas writes integers of a column with gaps as 5.0
        values = [int(v) if isinstance(v, float) and v.is_integer() else v for v in named if v is not None]
    indices = [int(value) for value in values if _is_index(value)]
    if field == "cls" and not indices and text != str(NO_INDEX):
        raise DataError(
            f"--data webdataset: {key}.{field} holds the label {text[:20]!r}; allowed: integers from 0 to {MAX_LABEL:,}"
            f", or {NO_INDEX} for none"
        )
    return indices[0] if indices else NO_INDEX if values else None


def _is_index(value: Any) -> bool:
    text = str(value) if isinstance(value, int | str) else ""
    return text.isascii() and text.isdigit() and len(text) <= len(str(MAX_LABEL))
