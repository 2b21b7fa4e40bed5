"""Cache the pairs of poses that evaluation matches, beside the images and targets that a search trains on.

Each entry holds one further shard, `POSES`. It is in no manifest and no fingerprint, because no training depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from nas.cache.entry import ARRAY_SUFFIX, POSES_PREFIX, CacheEntry
from nas.cache.images import ImageCacheBuilder, batches, map_in_order, read_rows, stage_progress
from nas.cache.shards import ArrayFile, ShardWriter, mapped
from nas.cache.teacher_features import ReadImages, TeacherCacheBuilder, read_pixels
from nas.data import open_poses
from nas.data.composites import POSES_VERSION, GlyphPoses
from nas.data.dataset import Progress

POSES = f"{POSES_PREFIX}{POSES_VERSION}"  # name of the shard
IMAGE_ARRAYS, TARGET_ARRAYS = ("images", "labels", "masks"), ("spatial",)  # parts of the images' and a teacher's entry


def poses_file(entry: CacheEntry, array: str) -> Path:
    """Return the path of one array of an entry's poses, written or not."""
    return entry.folder / f"{POSES}-{array}.npy"


def poses_stage(teacher: TeacherCacheBuilder) -> str:
    """Return the name of the stage of a build in which a teacher runs on the poses."""
    return f"{teacher.spec.name} on pairs of poses"


def missing_poses(teacher: TeacherCacheBuilder) -> int:
    """Return the number of poses on which a teacher still runs; 0 where the data has no poses."""
    poses = None if poses_file(teacher.entry, "spatial").exists() else _open(teacher.images, teacher.images.image_px)
    return 0 if poses is None else len(poses)


def has_poses(images: ImageCacheBuilder, teachers: Sequence[TeacherCacheBuilder]) -> bool:
    """Tell whether every entry has its part of the poses, or the data has no poses."""
    parts = [(images.entry, IMAGE_ARRAYS), *((teacher.entry, TARGET_ARRAYS) for teacher in teachers)]
    return all(_is_written(*part) for part in parts) or _open(images, images.image_px) is None


def build_poses(images: ImageCacheBuilder, teachers: Sequence[TeacherCacheBuilder], progress: Progress) -> None:
    """Write the poses' missing parts, into entries that are complete."""
    poses = _open(images, images.image_px)
    if poses is None:
        return
    _build_once(images.entry, IMAGE_ARRAYS, partial(_write_images, images, poses))
    for teacher in teachers:
        _build_once(teacher.entry, TARGET_ARRAYS, partial(_write_targets, teacher, len(poses), progress))


def check_poses(entry: CacheEntry) -> None:
    """Compare each row of an entry's poses with its checksum; CacheError where one differs. No manifest knows poses."""
    for path in sorted(entry.folder.glob(f"{POSES}-*{ARRAY_SUFFIX}")):
        array = ArrayFile(path)  # not the shared map, whose rows may have been checked before the damage
        for rows in batches(range(len(array))):
            array[rows]  # checks them


def _is_written(entry: CacheEntry, arrays: Sequence[str]) -> bool:
    return all(poses_file(entry, array).exists() for array in arrays)


def _build_once(entry: CacheEntry, arrays: Sequence[str], build: Callable[[], None]) -> None:
    """Build a missing part of an entry, unless another process builds it meanwhile, and remove the lock's file."""
    if _is_written(entry, arrays):
        return
    with entry.lock(POSES):
        if not _is_written(entry, arrays):
            build()
        # Whoever waits for a lock looks again for what it guards, so that the locks' files may go, also that of a
        # teacher that was loaded for the poses alone.
        for name in (POSES, "activations"):
            (entry.working / f"{name}.lock").unlink(missing_ok=True)


def _write_images(images: ImageCacheBuilder, poses: GlyphPoses) -> None:
    # Of the files of a shard, the first one is renamed last.
    with ShardWriter(images.entry.folder, POSES) as writer:
        writer.append(read_rows(poses.read, range(len(poses)))[0])


def _open(images: ImageCacheBuilder, size_px: int) -> GlyphPoses | None:
    """Open the poses, no more of them than held-out images."""
    return open_poses(images.source.uri, images.source.counts["val"], size_px)


def _write_targets(teacher: TeacherCacheBuilder, count: int, progress: Progress) -> None:
    """Run a teacher on the poses, and write the targets of its spatial features."""
    run = teacher.live_features(_reader(teacher))
    done = stage_progress(progress, poses_stage(teacher), count)
    with ShardWriter(teacher.entry.folder, POSES) as writer:
        compressed = map_in_order(lambda rows: teacher.compress(run(rows))["spatial"], batches(range(count)))
        for targets in compressed:
            writer.append({"spatial": targets.codes})
            done(writer.rows)
    teacher.forget_teacher()


def _reader(teacher: TeacherCacheBuilder) -> ReadImages:
    """Return a function that reads poses at the teacher's size as uint8 (N, 3, S, S)."""
    images = teacher.images
    if teacher.spec.source_px <= images.image_px:
        path = poses_file(images.entry, "images")
        return lambda rows: torch.from_numpy(mapped(path)[list(rows)])
    poses = _open(images, teacher.spec.source_px)
    assert poses is not None
    return partial(read_pixels, poses.read)
