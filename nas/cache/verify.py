"""Verify that a cache still holds its teachers' outputs: hash every file, and run every teacher on some images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from nas.cache.build import CachePlan
from nas.cache.entry import CacheError
from nas.cache.images import ImageSource
from nas.cache.poses import check_poses
from nas.cache.shards import mapped
from nas.cache.targets import CacheSet, precision_of, read_cache_set
from nas.cache.teacher_features import Compression, TeacherCacheBuilder

MIN_COSINE = 0.99  # int8 lowers the cosine of stored to live targets by less than 1e-3, other preprocessing far more


@dataclass(frozen=True)
class TeacherAgreement:
    """Agreement of one head's stored targets with the teacher's outputs now, on held-out images.

    Args:
        teacher: The teacher's name.
        head: "summary" or "spatial".
        images: Number of images.
        stored: Mean cosine of stored to live targets.
        decompressed: Mean cosine of decompressed stored targets to live features.
        built: The same as `decompressed`, on all held-out images, from the build.
    """

    teacher: str
    head: str
    images: int
    stored: float
    decompressed: float
    built: float

    @property
    def agrees(self) -> bool:
        """Tell whether the stored targets are those of the teacher now."""
        return self.stored >= MIN_COSINE


def verify_set(path: Path, samples: int, weights: Mapping[str, Path]) -> list[TeacherAgreement]:
    """Hash the files of a set and run its teachers on about `samples` held-out images, in whole batches.

    Raises:
        CacheError: A file is altered, the images are others, or a teacher's weights or preprocessing changed.
    """
    cache_set = read_cache_set(path)
    for entry in cache_set.entries:
        entry.check(hashes=True)
        check_poses(entry)
    plan = plan_of(cache_set, weights)
    return [agreement for teacher in plan.teachers for agreement in compare(teacher, samples)]


def plan_of(cache_set: CacheSet, weights: Mapping[str, Path]) -> CachePlan:
    """Return the plan that built a set; CacheError if the same settings lead to other images or teachers now."""
    origin, images = cache_set.origin, cache_set.images.manifest
    teacher_manifest = next(iter(cache_set.teachers.values())).manifest
    source = ImageSource(
        origin["data"],
        {"train": origin["train_images"], "val": origin["val_images"]},
        origin["seed"],
        origin["views"],
        cache_set.path.parent,
    )
    compression = Compression(teacher_manifest["grid"], teacher_manifest["storage"], teacher_manifest["share"])
    plan = CachePlan(
        source, origin["teachers"], weights, images["image_px"], compression, precision_of(teacher_manifest)
    )
    if plan.images.entry.folder != cache_set.images.folder:
        raise CacheError(f"teacher cache: the images of {origin['data']!r} are not those of {cache_set.images.folder}")
    for teacher in plan.teachers:
        folder = cache_set.teachers[teacher.spec.name].folder
        if teacher.entry.folder != folder:
            raise CacheError(
                f"teacher cache: {teacher.spec.name} has other weights or another preprocessing than in {folder}, or an"
                " earlier version compressed it in another way; the next search builds it again"
            )
    return plan


def compare(builder: TeacherCacheBuilder, samples: int) -> list[TeacherAgreement]:
    """Compare the stored targets of a teacher's heads with its outputs now."""
    sums: dict[str, list[float]] = {}
    images = 0
    val = builder.images.shards_of("val")
    for shard, rows in ((part, batch) for part in val for batch in builder.row_batches(part)):
        if images >= samples:
            break
        images += len(rows)
        live = builder.live_features(builder.image_reader(shard))(rows)
        compressed = builder.compress(live)
        for head, features in live.items():
            compressor = builder.compressors[head]
            codes = mapped(builder.entry.folder / f"{shard.name}-{head}.npy")[list(rows)]
            stored, target = (torch.from_numpy(compressor.codec.decode(x)) for x in (codes, compressed[head].codes))
            cosines = F.cosine_similarity(compressor.decompress(codes), features, dim=1)
            sums.setdefault(head, [0.0, 0.0])
            sums[head][0] += float(F.cosine_similarity(stored, target, dim=1).mean()) * len(rows)
            sums[head][1] += float(cosines.mean()) * len(rows)
    heads = builder.entry.manifest["heads"]
    return [
        TeacherAgreement(builder.spec.name, head, images, stored / images, restored / images, heads[head]["cosine"])
        for head, (stored, restored) in sums.items()
    ]
