"""`webdataset:PATTERN`: tar shards in WebDataset's convention, read at random access by an index of their members."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from webdataset.shardlists import expand_urls

from nas.data.imageset import (
    IGNORE_LABEL,
    DataError,
    Sample,
    Split,
    decode,
    digest,
    file_identity,
    held_out,
    limited,
    square,
    square_mask,
)

IMAGE_FIELDS = ("jpg", "jpeg", "png", "webp")
LABEL_FIELD = "cls"
MASK_FIELDS = ("mask.png", "seg.png")


class Member(NamedTuple):
    """Where one file's bytes lie inside a shard, or the bytes themselves where they are few."""

    shard: Path
    offset: int
    size: int
    content: bytes | None

    def read(self) -> bytes:
        if self.content is not None:
            return self.content
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


Fields = dict[str, Member]


@dataclass(frozen=True)
class Shards:
    """Samples `keys` of `index` (key -> field -> member). Labels count only if every sample of the shards has one."""

    index: dict[str, Fields]
    keys: tuple[str, ...]
    size_px: int
    uri: str
    num_classes: int | None

    @property
    def has_masks(self) -> bool:
        return all(first_field(self.index[key], MASK_FIELDS) for key in self.keys)

    @cached_property
    def mask_classes(self) -> int | None:
        if not self.has_masks:
            return None
        masks = [self.read(i).mask for i in range(len(self))]
        return max(int(mask[mask != IGNORE_LABEL].max(initial=0)) for mask in masks if mask is not None) + 1

    @cached_property
    def fingerprint(self) -> str:
        shards = sorted({member.shard for fields in self.index.values() for member in fields.values()})
        identities = [(shard.name, file_identity(shard)) for shard in shards]
        return digest(["webdataset", 1, self.size_px, self.num_classes, self.keys, identities])

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, i: int) -> Sample:
        key = self.keys[i]
        fields = self.index[key]
        image = decode(io.BytesIO(fields[str(first_field(fields, IMAGE_FIELDS))].read()), key)
        mask = None
        if self.has_masks:
            encoded = fields[str(first_field(fields, MASK_FIELDS))].read()
            mask = square_mask(decode(io.BytesIO(encoded), f"{key} (mask)"), self.size_px)
        label = None if self.num_classes is None else label_of(fields, key)
        return Sample(square(image, self.size_px), label, mask)


def open_shards(pattern: str, split: Split, count: int | None, seed: int, size_px: int) -> Shards:
    """Samples of the shards a brace or glob pattern names.

    ``TRAIN::VAL`` gives both splits a pattern of their own; with a single pattern the hash of a key decides.
    DataError where a shard is missing, unreadable, or the split is empty.
    """
    train, separated, val = pattern.partition("::")
    own = val if separated and split == "val" else train
    index = index_members(expand(own))
    samples = {key: fields for key, fields in index.items() if first_field(fields, IMAGE_FIELDS)}
    keys = sorted(samples) if separated else [key for key in sorted(samples) if held_out(key) == (split == "val")]
    if not keys:
        raise DataError(
            f"--data webdataset: no {split} images in '{own}' ({len(samples)} in all; fields {IMAGE_FIELDS})"
        )
    every = {**samples, **index_members(expand(train if split == "val" else val))} if separated else samples
    uri = f"webdataset:{pattern}"
    return Shards(samples, tuple(limited(keys, count, seed)), size_px, uri, count_classes(every))


def expand(pattern: str) -> list[Path]:
    """Shard files of a pattern such as ``train-{0000..0003}.tar`` or ``train-*.tar``; DataError for a missing one."""
    shards: list[Path] = []
    for part in map(Path, expand_urls(str(Path(pattern).expanduser()))):
        found = sorted(part.parent.glob(part.name)) or [part]
        shards += found
        if not found[0].is_file():
            raise DataError(f"--data webdataset: no such shard '{part}' (pattern '{pattern}')")
    return shards


def index_members(shards: Iterable[Path]) -> dict[str, Fields]:
    """Key -> field -> member over uncompressed tar files; a key is a path up to the first dot of its file name."""
    index: dict[str, Fields] = {}
    for shard in shards:
        try:
            for key, field, member in members_of(shard):
                index.setdefault(key, {})[field] = member
        except (tarfile.TarError, OSError) as error:
            raise DataError(f"--data webdataset: cannot read shard '{shard}': {error}") from error
    return index


def members_of(shard: Path) -> Iterator[tuple[str, str, Member]]:
    """Key, field and place of every file in a shard; labels are read on the way, since all of them are wanted."""
    with tarfile.open(shard, "r:") as tar:
        for info in tar:
            if not info.isfile():
                continue
            folder, slash, base = info.name.rpartition("/")
            stem, _, field = base.partition(".")
            file = tar.extractfile(info) if field == LABEL_FIELD else None
            label = file.read() if file else None
            yield (
                f"{shard.name}/{folder}{slash}{stem}",
                field.lower(),
                Member(shard, info.offset_data, info.size, label),
            )


def first_field(fields: Fields, names: Iterable[str]) -> str | None:
    """The first of the names that the sample has."""
    return next((name for name in names if name in fields), None)


def count_classes(samples: dict[str, Fields]) -> int | None:
    """Largest label + 1, or None unless every image has a label."""
    images = {key: fields for key, fields in samples.items() if first_field(fields, IMAGE_FIELDS)}
    if not all(LABEL_FIELD in fields for fields in images.values()):
        return None
    return max(label_of(fields, key) for key, fields in images.items()) + 1


def label_of(fields: Fields, key: str) -> int:
    """The class index in a sample's ``cls`` field; DataError if it is no non-negative integer."""
    text = fields[LABEL_FIELD].read().decode("ascii", "replace").strip()
    if not text.isdigit():
        raise DataError(f"--data webdataset: {key}.cls holds {text[:20]!r}; allowed: a non-negative integer")
    return int(text)
