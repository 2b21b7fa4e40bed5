"""One tar shard in WebDataset's convention, indexed so that its members can be read in any order."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from nas.data.dataset import DataError

IMAGE_FIELDS = ("jpg", "jpeg", "png", "webp")
MASK_FIELDS = ("mask.png", "seg.png")
LABEL_FIELDS = ("cls", "json")
BLOCK_BYTES = 512


class Member(NamedTuple):
    """Where one file's bytes lie inside a shard."""

    shard: Path
    offset: int
    size: int

    def read(self) -> bytes:
        try:
            with self.shard.open("rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        except OSError as error:
            raise DataError(f"--data webdataset: cannot read shard '{self.shard}': {error.strerror}") from error


class TarSample(NamedTuple):
    """`key` is the shard's name and the path up to the first dot of the file's name."""

    key: str
    image: Member
    mask: Member | None
    label: int | None


def read_index(path: Path, name: str) -> tuple[TarSample, ...]:
    """Samples that have an image, in the order of an uncompressed tar file; `name` stands for it in keys and messages.

    Pixels stay on disk; labels are read on the way. DataError where the file is no tar or ends too early.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"--data webdataset: cannot read shard '{path}': {error.strerror}") from error
    return index_of(path, name, status.st_size, status.st_mtime_ns)


@cache  # a build opens the same shards once for every size that a teacher or the student wants
def index_of(path: Path, name: str, size: int, mtime_ns: int) -> tuple[TarSample, ...]:
    """The index of one version of a file."""
    fields: dict[str, dict[str, Member]] = {}
    labels: dict[str, int | None] = {}
    short = name.rpartition("/")[2]
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                if not info.isreg():
                    continue
                folder, slash, base = info.name.rpartition("/")
                stem, _, field = base.lower().partition(".")
                key = f"{short}/{folder}{slash}{base[: len(stem)]}"
                fields.setdefault(key, {})[field] = Member(path, info.offset_data, info.size)
                file = tar.extractfile(info) if field in LABEL_FIELDS and labels.get(key) is None else None
                if file:
                    labels[key] = label_in(file.read(), field, key)
            end = Member(path, tar.offset, BLOCK_BYTES).read()
        if end != bytes(BLOCK_BYTES):  # tarfile takes a damaged header, or none at all, for the end
            raise tarfile.ReadError(f"truncated or damaged at byte {tar.offset}")
    except (tarfile.TarError, OSError) as error:
        where = f"'{name}'" if name == str(path) else f"'{name}', here as '{path}',"
        raise DataError(f"--data webdataset: cannot read shard {where} as an uncompressed tar: {error}") from error
    samples = []
    for key, found in fields.items():
        if image := first(found, IMAGE_FIELDS):
            samples.append(TarSample(key, image, first(found, MASK_FIELDS), labels.get(key)))
    return tuple(samples)


def first(fields: dict[str, Member], names: Iterable[str]) -> Member | None:
    """The first of the named fields that is there."""
    return next((fields[name] for name in names if name in fields), None)


def label_in(content: bytes, field: str, key: str) -> int | None:
    """The class index a ``cls`` file holds, or a ``json`` file under "label" or "cls"; None where JSON has neither.

    DataError if it is no non-negative integer.
    """
    text = content.decode("utf-8", "replace").strip()
    if field == "json":
        try:
            about = json.loads(text)
        except ValueError as error:
            raise DataError(f"--data webdataset: {key}.json is no JSON: {error}") from error
        found = [about[name] for name in ("label", "cls") if name in about] if isinstance(about, dict) else []
        if not found:
            return None
        text = str(found[0])
    if not (text.isascii() and text.isdigit()):
        raise DataError(f"--data webdataset: {key}.{field} holds the label {text[:20]!r}; allowed: integers from 0")
    return int(text)
