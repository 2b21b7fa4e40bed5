"""Tell what building a cache will cost, and what a built one came to: bytes, seconds, fidelity.

An estimate reads a few images and shows them to each teacher.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas.cache.codecs import CODECS
from nas.cache.entry import SHARD, CacheEntry, Shard
from nas.cache.images import ImageCacheBuilder
from nas.cache.targets import read_cache_set
from nas.cache.teacher_features import CALIBRATION_SHARDS, TeacherCacheBuilder
from nas.cli import clock
from nas.data import CorruptImage, ImageSet
from nas.study.config import DistillConfig

PROBED = 16  # images: a mosaic's worth


@dataclass(frozen=True)
class BuildEstimate:
    """Cost of the missing entries: bytes that stay, bytes that go again once they are built, seconds here."""

    stays: float
    passes: float
    seconds: float

    @property
    def line(self) -> str:
        """The estimate in one line."""
        passing = f" (and {size(self.passes)} while it is built)" if self.passes else ""
        return f"teacher cache: about {size(self.stays)}{passing} and {clock(self.seconds)} to build"

    def __add__(self, other: BuildEstimate) -> BuildEstimate:
        return BuildEstimate(self.stays + other.stays, self.passes + other.passes, self.seconds + other.seconds)


def estimate(images: ImageCacheBuilder, teachers: Sequence[TeacherCacheBuilder]) -> BuildEstimate:
    """Estimate what the missing entries of images and teachers cost."""
    total = of_images(images) if not images.entry.complete else BuildEstimate(0, 0, 0)
    for teacher in teachers:
        total += of_teacher(teacher)
    return total


def of_images(images: ImageCacheBuilder) -> BuildEstimate:
    """Estimate pixels, labels, masks, and the time to read."""
    train = images.sets["train"]
    each = images.image_px**2 * (4 if train.has_masks else 3) + (8 if train.num_classes else 0)
    missing = missing_items(images.entry, images.shards)
    return BuildEstimate(missing * each, 0, missing * seconds_each(lambda: first(train)))


def of_teacher(features: TeacherCacheBuilder) -> BuildEstimate:
    """Estimate at most `share` of the channels, and the time to run the teacher and to read its larger images."""
    spec, compression = features.spec, features.compression
    larger = spec.source_px > features.images.image_px
    images = features.large["train"] if larger else features.images.sets["train"]
    pixels = torch.from_numpy(first(images)).permute(0, 3, 1, 2)
    teacher = spec.load().to(features.device)

    def run() -> None:
        with torch.inference_mode():
            teacher(pixels.to(features.device).float() / 255)[1].cpu()

    seconds = seconds_each(run) + (seconds_each(lambda: first(images)) if larger else 0)
    numbers = teacher.summary_dim + compression.grid**2 * teacher.spatial_dim
    missing = missing_items(features.entry, features.images.shards)
    stays = missing * numbers * compression.share * CODECS[compression.storage].bits / 8
    raw = 0 if features.calibrated else min(CALIBRATION_SHARDS * SHARD, len(features.images.sets["train"]))
    return BuildEstimate(stays, raw * numbers * 4, missing * seconds)


def missing_items(entry: CacheEntry, shards: list[Shard]) -> int:
    """Count the items that are still to be done."""
    return sum(shard.stop - shard.start for shard in shards if not entry.has(shard))


def first(images: ImageSet) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Read the first images (PROBED, S, S, 3) that can be decoded, repeated where there are fewer."""
    found = []
    for i in range(min(2 * PROBED, len(images))):
        try:
            found.append(images.read(i).image)
        except CorruptImage:
            continue
        if len(found) == PROBED:
            break
    blank = np.zeros((images.size_px, images.size_px, 3), dtype=np.uint8)
    return np.stack([found[i % len(found)] if found else blank for i in range(PROBED)])


def seconds_each(work: Callable[[], object]) -> float:
    """Time an image on this machine, the second time, where batches run at once on a thread each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        work()
        began = time.perf_counter()
        work()
        return (time.perf_counter() - began) / PROBED / threads
    finally:
        torch.set_num_threads(threads)


def size(count: float) -> str:
    """Format bytes with a unit, powers of 1,000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def summary(path: Path) -> str:
    """Describe a built set in lines: size against fp16, fidelity, and when it has paid for itself."""
    found = read_cache_set(path)
    images = found.images.manifest
    count = sum(record["rows"] for record in images["shards"].values())
    manifests = [entry.manifest for entry in found.teachers.values()]
    lines = [line for manifest in manifests for line in teacher_lines(manifest)]
    stored, raw = (sum(column) for column in zip(*map(bytes_each, manifests), strict=True))
    lines.append(
        f"targets {size(stored * count)} for {count} images, {raw / stored:.1f} times less than fp16 features on the"
        f" same grid; images {size(file_bytes(found.images))}; {path}"
    )
    return "\n".join([*lines, break_even(sum(m["seconds"] for m in manifests), images["seconds"], count)])


def teacher_lines(manifest: dict[str, Any]) -> list[str]:
    """Describe a teacher's entry, one line a head."""
    return [
        f"{manifest['teacher']} {head}: {about['channels']} -> {about['dims']} channels, {about['kept']:.3f} of the"
        f" variance; cosine of decompressed to live features {about['cosine']:.4f} on held-out images;"
        f" {about['clipped']:.2g} clipped"
        for head, about in manifest["heads"].items()
    ]


def bytes_each(manifest: dict[str, Any]) -> tuple[float, float]:
    """Return a teacher's bytes an image: as stored, and of its raw features in fp16."""
    stored = raw = 0
    for head, about in manifest["heads"].items():
        cells = 1 if head == "summary" else manifest["grid"] ** 2
        stored += cells * about["dims"] * CODECS[manifest["storage"]].bits / 8
        raw += cells * about["channels"] * 2
    return stored, raw


def file_bytes(entry: CacheEntry) -> int:
    """Add up the bytes of an entry's files."""
    return sum(file["bytes"] for file in entry.manifest["files"].values())


def break_even(teachers_s: float, images_s: float, count: int) -> str:
    """Tell when live teachers, at the measured seconds an image, would have cost as much as the cache did."""
    recipe = DistillConfig()
    batch_s = teachers_s / count * recipe.batch_size
    steps = (teachers_s + images_s) / batch_s
    trial = recipe.rung_steps[-1]
    return (
        f"paid for itself after {steps:.0f} steps of {recipe.batch_size} images ({steps / trial:.2g} trials of {trial}"
        f" steps): with live teachers ({1000 * teachers_s / count:.1f} ms an image) such a trial would wait"
        f" {batch_s * trial:.0f} s for them"
    )
