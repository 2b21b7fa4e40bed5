"""Open the targets of distillation, memory-mapped: images, labels, masks, every teacher's standardized features."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nas.cache.codecs import CODECS, Codec
from nas.cache.entry import CacheEntry, CacheError, damage, mark_in_use, read_json
from nas.cache.poses import POSES, poses_file
from nas.cache.shards import ShardedArray, TargetArray, mapped
from nas.cache.standardize import HEADS, Standardizer, load_statistics
from nas.numbers import plural
from search_space.checks import regular_file


@dataclass(frozen=True)
class SplitTargets:
    """The arrays of one split of N images. Indexing one with a slice or an array of integers gives its rows.

    Args:
        images: uint8 (N, 3, S, S).
        labels: int64 (N,), None without labels.
        masks: uint8 (N, S, S), None without masks.
        summary: Teacher -> float32 (N, k), without the teachers that have no summary.
        spatial: Teacher -> float32 (N, k, g, g).
    """

    images: TargetArray
    labels: TargetArray | None
    masks: TargetArray | None
    summary: Mapping[str, TargetArray]
    spatial: Mapping[str, TargetArray]

    def __len__(self) -> int:
        return len(self.images)

    def spread(self, count: int) -> SplitTargets:
        """Return at most `count` images, evenly spread over the split, with their targets in memory."""
        rows = np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).astype(int))
        summary, spatial = ({name: a[rows] for name, a in of.items()} for of in (self.summary, self.spatial))
        return SplitTargets(self.images[rows], None, None, summary, spatial)


@dataclass(frozen=True)
class TeacherTargets:
    """The standardizers of a teacher's heads, which invert its targets, and the precision that it computed them in.

    `summary` is None without a summary.
    """

    fingerprint: str
    summary: Standardizer | None
    spatial: Standardizer
    precision: str = "fp32"

    @property
    def summary_dim(self) -> int:
        """Return the channels of the summary targets, 0 without a summary."""
        return 0 if self.summary is None else self.summary.dims

    @property
    def spatial_dim(self) -> int:
        """Return the channels of the spatial targets."""
        return self.spatial.dims


@dataclass(frozen=True)
class Targets:
    """The targets of a set.

    Args:
        path: The set's file, as `load_targets` takes it.
        fingerprint: Digest of teachers, data and sizes.
        data_fingerprint: Digest of the images.
        train: The train split.
        val: The held-out split.
        teachers: The teachers' standardizers.
        num_classes: Number of classes, None without labels.
        mask_classes: Number of classes in masks, None without masks.
        image_px: Side of the images.
        grid: Side of the spatial targets.
        build_seconds: Sum over all processes that built the entries.
        skipped: Messages about images that cannot be decoded.
        class_names: The classes' names, if known.
        poses: Pairs of images 2 i and 2 i + 1 that show one object in two poses, with masks that are 1 on the object
            and the teachers' spatial targets; None where the data has none.
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
    poses: SplitTargets | None = None


@dataclass(frozen=True)
class CacheSet:
    """The entries that make up one cache: the images' and one per teacher.

    `origin` holds the settings of the images and the teachers, with which the set can be opened again.
    """

    path: Path
    images: CacheEntry
    teachers: Mapping[str, CacheEntry]
    origin: Mapping[str, Any]

    @property
    def entries(self) -> list[CacheEntry]:
        """Return the images' entry and the teachers' entries."""
        return [self.images, *self.teachers.values()]


def set_path(root: Path, fingerprint: str) -> Path:
    """Return the path of a set's file in the cache folder `root`, by the fingerprint of its targets."""
    return root / f"set-{fingerprint}.json"


def check_is_set(path: Path) -> None:
    """Raise OSError where a file cannot be opened, and CacheError where it is no set by its name."""
    os.close(regular_file(str(path), os.O_RDONLY))
    if not path.match("set-*.json"):
        raise CacheError(f"teacher cache: {path} is not the file of a set, set-*.json")


def read_cache_set(path: Path) -> CacheSet:
    """Read the entries that a set names; CacheError if it cannot be read, or is another file of the cache."""
    try:
        content = read_json(path)
    except (OSError, CacheError):
        raise CacheError(f"teacher cache: {path} is damaged or of another version; delete it to rebuild it") from None
    try:
        images = CacheEntry(path.parent / content["images"])
        teachers = {name: CacheEntry(path.parent / folder) for name, folder in content["teachers"].items()}
        return CacheSet(path, images, teachers, content["origin"])
    except (KeyError, TypeError, AttributeError):
        raise CacheError(f"teacher cache: {path} is not the file of a set, set-*.json") from None


def load_targets(path: Path, checked: bool = False) -> Targets:
    """Memory-map the targets of a built set.

    Args:
        path: The set's file.
        checked: Whether another process, whose worker this one is, has just checked the sizes of all arrays. Rows are
            checked as they are read in any case.

    Raises:
        CacheError: A file is missing or altered.
    """
    cache_set = read_cache_set(path)
    for entry in cache_set.entries:
        entry.check(arrays=not checked)
        mark_in_use(entry.folder)
    images = cache_set.images.manifest
    for entry in cache_set.teachers.values():
        check_rows(entry, images)
    manifests = {name: entry.manifest for name, entry in cache_set.teachers.items()}
    statistics = {name: load_statistics(entry.folder) for name, entry in cache_set.teachers.items()}
    codecs = {
        name: {head: CODECS[manifests[name]["storage"]](fitted.largest) for head, fitted in heads.items()}
        for name, heads in statistics.items()
    }
    teachers = {
        name: TeacherTargets(
            manifests[name]["teacher_fingerprint"],
            heads["summary"].standardizer if "summary" in heads else None,
            heads["spatial"].standardizer,
            precision_of(manifests[name]),
        )
        for name, heads in statistics.items()
    }
    skipped = [message for record in images["shards"].values() for _, message in record["skipped"]]
    return Targets(
        path,
        fingerprint=path.stem.removeprefix("set-"),
        data_fingerprint=images["fingerprint"],
        train=load_split(cache_set, "train", codecs),
        val=load_split(cache_set, "val", codecs),
        teachers=teachers,
        num_classes=images["num_classes"],
        mask_classes=images["mask_classes"],
        image_px=images["image_px"],
        grid=next(iter(manifests.values()))["grid"],
        build_seconds=round(sum(entry.manifest["seconds"] for entry in cache_set.entries), 2),
        skipped=tuple(skipped),
        class_names=None if images["class_names"] is None else tuple(images["class_names"]),
        poses=load_poses(cache_set, codecs),
    )


def check_rows(entry: CacheEntry, images: Mapping[str, Any]) -> None:
    """Raise CacheError where a teacher's entry has other rows than the images' manifest.

    Images that were deleted and built again by other libraries may lack other undecodable ones.
    """
    for name, record in images["shards"].items():
        rows = entry.manifest["shards"].get(name, {}).get("rows")
        if rows != record["rows"]:
            raise damage(
                entry.manifest_path,
                f"of {plural(rows, 'image')} in {name}, of which {record['rows']} can be decoded now",
            )


def precision_of(manifest: Mapping[str, Any]) -> str:
    """Return the precision that a teacher computed an entry in; entries that do not name it were computed in fp32."""
    return str(manifest.get("precision", "fp32"))


def load_split(cache_set: CacheSet, split: str, codecs: Mapping[str, Mapping[str, Codec]]) -> SplitTargets:
    """Open one split's arrays, with `codecs` by teacher and head."""
    records = cache_set.images.manifest["shards"].items()
    rows = {name: record["rows"] for name, record in records if name.startswith(f"{split}-") and record["rows"]}
    files = cache_set.images.manifest["files"]
    optional = {
        array: open_array(cache_set.images, rows, array) if f"{next(iter(rows))}-{array}.npy" in files else None
        for array in ("labels", "masks")
    }
    heads = {
        head: {
            name: open_array(entry, rows, head, codecs[name][head])
            for name, entry in cache_set.teachers.items()
            if head in codecs[name]
        }
        for head in HEADS
    }
    return SplitTargets(open_array(cache_set.images, rows, "images"), **optional, **heads)  # type: ignore[arg-type]


def load_poses(cache_set: CacheSet, codecs: Mapping[str, Mapping[str, Codec]]) -> SplitTargets | None:
    """Open the pairs of poses, with `codecs` by teacher and head; None where the cache has none."""
    pixels = poses_file(cache_set.images, "images")
    if not pixels.exists():
        return None
    rows = {POSES: len(mapped(pixels))}
    return SplitTargets(
        images=open_array(cache_set.images, rows, "images"),
        labels=open_array(cache_set.images, rows, "labels"),
        masks=open_array(cache_set.images, rows, "masks"),
        summary={},
        spatial={
            name: open_array(entry, rows, "spatial", codecs[name]["spatial"])
            for name, entry in cache_set.teachers.items()
            if poses_file(entry, "spatial").exists()
        },
    )


def open_array(entry: CacheEntry, rows: Mapping[str, int], array: str, codec: Codec | None = None) -> ShardedArray:
    """Open an array of an entry over shards, given as shard name -> number of rows."""
    return ShardedArray([entry.folder / f"{name}-{array}.npy" for name in rows], list(rows.values()), codec)
