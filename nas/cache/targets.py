"""Open what a student is trained on, memory-mapped: images, labels, masks, every teacher's standardized features."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.cache.codecs import CODECS, Codec
from nas.cache.entry import FORMAT, CacheEntry, CacheError, hold
from nas.cache.shards import ShardedArray, TargetArray
from nas.cache.standardize import HEADS, Standardizer, load_statistics


@dataclass(frozen=True)
class SplitTargets:
    """images uint8 (N, 3, S, S); labels int64 (N,); masks uint8 (N, S, S); summary and spatial: teacher -> float32
    (N, k) and (N, k, g, g). Slices and arrays of integers give rows; a teacher without summary is not in `summary`."""

    images: TargetArray
    labels: TargetArray | None
    masks: TargetArray | None
    summary: Mapping[str, TargetArray]
    spatial: Mapping[str, TargetArray]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class TeacherTargets:
    """How a teacher's targets were made; the standardizers invert them. `summary` is None where it has none."""

    fingerprint: str
    summary: Standardizer | None
    spatial: Standardizer

    @property
    def summary_dim(self) -> int:
        return 0 if self.summary is None else self.summary.dims

    @property
    def spatial_dim(self) -> int:
        return self.spatial.dims

    @property
    def summary_kept(self) -> float | None:
        """Share of the teacher's summary variance in the targets."""
        return None if self.summary is None else self.summary.kept

    @property
    def spatial_kept(self) -> float:
        """Share of the teacher's spatial variance in the targets."""
        return self.spatial.kept


@dataclass(frozen=True)
class Targets:
    """A whole cache. `path` is what `load_targets` takes, `fingerprint` names teachers, data and sizes together.

    `build_seconds` adds up what all builders spent; `skipped` lists undecodable images.
    """

    path: Path
    fingerprint: str
    data_fingerprint: str
    train: SplitTargets
    val: SplitTargets
    teachers: Mapping[str, TeacherTargets]
    num_classes: int | None
    mask_classes: int | None
    image_px: int
    grid: int
    build_seconds: float
    skipped: tuple[str, ...]
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class CacheSet:
    """Entries that make up one cache: the images' and, by teacher, the targets'; `origin` is how to open them again."""

    path: Path
    images: CacheEntry
    teachers: Mapping[str, CacheEntry]
    origin: Mapping[str, Any]

    @property
    def entries(self) -> list[CacheEntry]:
        return [self.images, *self.teachers.values()]


def read_cache_set(path: Path) -> CacheSet:
    """Read the entries that a set names.

    Raises:
        CacheError: The set cannot be read.
    """
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise CacheError(f"teacher cache: {path} is of another version; delete it to rebuild it")
        images = CacheEntry(path.parent / content["images"])
        teachers = {name: CacheEntry(path.parent / folder) for name, folder in content["teachers"].items()}
        return CacheSet(path, images, teachers, content["origin"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, CacheError):
            raise
        raise CacheError(f"teacher cache: {path} is unreadable; delete it to rebuild it") from error


def load_targets(path: Path, verify: bool = False) -> Targets:
    """Memory-map a built cache; `path` is its set.

    Raises:
        CacheError: A file is missing or resized, with `verify` also altered.
    """
    found = read_cache_set(path)
    for entry in found.entries:
        entry.check(hashes=verify)
        hold(entry.folder)
    images = found.images.manifest
    about = {name: entry.manifest for name, entry in found.teachers.items()}
    fitted = {name: load_statistics(entry.folder) for name, entry in found.teachers.items()}
    codecs = {
        name: {head: CODECS[about[name]["storage"]](fit.largest) for head, fit in heads.items()}
        for name, heads in fitted.items()
    }
    teachers = {
        name: TeacherTargets(
            about[name]["teacher_fingerprint"],
            heads["summary"].standardizer if "summary" in heads else None,
            heads["spatial"].standardizer,
        )
        for name, heads in fitted.items()
    }
    skipped = [message for record in images["shards"].values() for _, message in record["skipped"]]
    return Targets(
        path,
        fingerprint=path.stem.removeprefix("set-"),
        data_fingerprint=images["fingerprint"],
        train=load_split(found, "train", codecs),
        val=load_split(found, "val", codecs),
        teachers=teachers,
        num_classes=images["num_classes"],
        mask_classes=images["mask_classes"],
        image_px=images["image_px"],
        grid=next(iter(about.values()))["grid"],
        build_seconds=round(sum(entry.manifest["seconds"] for entry in found.entries), 2),
        skipped=tuple(skipped),
        class_names=None if images["class_names"] is None else tuple(images["class_names"]),
    )


def load_split(found: CacheSet, split: str, codecs: Mapping[str, Mapping[str, Codec]]) -> SplitTargets:
    """Open one split's arrays; labels and masks are None where the cache has none."""
    records = found.images.manifest["shards"].items()
    rows = {name: record["rows"] for name, record in records if name.startswith(f"{split}-") and record["rows"]}
    files = found.images.manifest["files"]
    plain = {
        array: sharded(found.images, rows, array) if f"{next(iter(rows))}-{array}.npy" in files else None
        for array in ("labels", "masks")
    }
    heads = {
        head: {
            name: sharded(entry, rows, head, codecs[name][head])
            for name, entry in found.teachers.items()
            if head in codecs[name]
        }
        for head in HEADS
    }
    return SplitTargets(sharded(found.images, rows, "images"), **plain, **heads)  # type: ignore[arg-type]


def sharded(entry: CacheEntry, rows: Mapping[str, int], array: str, codec: Codec | None = None) -> ShardedArray:
    """Open an array over the shards of a split."""
    return ShardedArray([entry.folder / f"{name}-{array}.npy" for name in rows], list(rows.values()), codec)
