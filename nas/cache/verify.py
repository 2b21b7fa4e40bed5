"""Verify that a cache is still what its teachers compute: hash every file, run every teacher again on some images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from nas.cache.build import CachePlan
from nas.cache.entry import CacheError
from nas.cache.images import ImageSource
from nas.cache.shards import mapped
from nas.cache.targets import CacheSet, read_cache_set
from nas.cache.teacher_features import Compression, TeacherCacheBuilder

MIN_COSINE = 0.99  # cosine of a stored target to the teacher's now: int8 costs less than 1e-3, another feeding far more


@dataclass(frozen=True)
class TeacherAgreement:
    """Mean cosines on `images` of one head: the stored target to the target now, and the decompressed feature to the
    raw feature now; `built` is the latter over all held-out images when the cache was built."""

    teacher: str
    head: str
    images: int
    stored: float
    decompressed: float
    built: float

    @property
    def good(self) -> bool:
        return self.stored >= MIN_COSINE


def verify_set(path: Path, samples: int, weights: Mapping[str, Path]) -> list[TeacherAgreement]:
    """Re-hash a set and re-run its teachers on about `samples` held-out images, whole batches of them.

    CacheError names an altered file, other images, or a teacher that computes something else.
    """
    found = read_cache_set(path)
    for entry in found.entries:
        entry.check(hashes=True)
    plan = replan(found, weights)
    return [agreement for teacher in plan.teachers for agreement in agreements(teacher, samples)]


def replan(found: CacheSet, weights: Mapping[str, Path]) -> CachePlan:
    """The plan that made a set; CacheError if the same settings name other images or teachers now."""
    origin, images = found.origin, found.images.manifest
    about = next(iter(found.teachers.values())).manifest
    source = ImageSource(
        origin["data"],
        {"train": origin["train_images"], "val": origin["val_images"]},
        origin["seed"],
        origin["views"],
        found.path.parent,
    )
    compression = Compression(about["grid"], about["storage"], about["share"])
    plan = CachePlan(source, origin["teachers"], weights, images["image_px"], compression)
    if plan.images.entry.folder != found.images.folder:
        raise CacheError(f"teacher cache: the images of {origin['data']!r} are not those of {found.images.folder}")
    for teacher in plan.teachers:
        if teacher.entry.folder != found.teachers[teacher.spec.name].folder:
            raise CacheError(
                f"teacher cache: {teacher.spec.name} has other weights or another preprocessing than in"
                f" {found.teachers[teacher.spec.name].folder}"
            )
    return plan


def agreements(features: TeacherCacheBuilder, samples: int) -> list[TeacherAgreement]:
    """Of every head."""
    sums: dict[str, list[float]] = {}
    images = 0
    shards = features.images.shards_of("val")
    for shard, positions in ((of, batch) for of in shards for batch in features.positions(of)):
        if images >= samples:
            break
        images += len(positions)
        live = features.live(shard)(positions)
        now = features.compress(live)
        for head, raw in live.items():
            compressor = features.compressors[head]
            stored = mapped(features.entry.folder / f"{shard.name}-{head}.npy")[list(positions)]
            target, target_now = (torch.from_numpy(compressor.codec.decode(x)) for x in (stored, now[head].codes))
            restored = F.cosine_similarity(compressor.restored(stored), raw, dim=1)
            sums.setdefault(head, [0.0, 0.0])
            sums[head][0] += float(F.cosine_similarity(target, target_now, dim=1).mean()) * len(positions)
            sums[head][1] += float(restored.mean()) * len(positions)
    heads = features.entry.manifest["heads"]
    return [
        TeacherAgreement(features.spec.name, head, images, stored / images, restored / images, heads[head]["cosine"])
        for head, (stored, restored) in sums.items()
    ]
