"""Estimate the cost of building a cache, and summarize a built one: bytes, seconds, fidelity.

An estimate times the reading of a few images and each teacher on them.
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
from nas.cache.entry import SHARD_ITEMS, CacheEntry, Shard
from nas.cache.images import ImageCacheBuilder
from nas.cache.targets import read_cache_set
from nas.cache.teacher_features import CALIBRATION_SHARDS, TeacherCacheBuilder
from nas.cli import clock
from nas.data import CorruptImage, ImageSet
from nas.study.config import DistillConfig

PROBE_IMAGES = 16  # as many as the largest mosaic holds


@dataclass(frozen=True)
class BuildEstimate:
    """Cost of building entries: bytes that stay, bytes that exist during the build only, seconds on this machine."""

    kept_bytes: float
    temporary_bytes: float
    seconds: float

    @property
    def line(self) -> str:
        """Return the estimate in one line."""
        temporary = f" (and {format_bytes(self.temporary_bytes)} while it is built)" if self.temporary_bytes else ""
        return f"teacher cache: about {format_bytes(self.kept_bytes)}{temporary} and {clock(self.seconds)} to build"

    def __add__(self, other: BuildEstimate) -> BuildEstimate:
        return BuildEstimate(
            self.kept_bytes + other.kept_bytes,
            self.temporary_bytes + other.temporary_bytes,
            self.seconds + other.seconds,
        )


def estimate(images: ImageCacheBuilder, teachers: Sequence[TeacherCacheBuilder]) -> BuildEstimate:
    """Estimate the cost of the images' entry, if it is missing, and of the teachers' entries."""
    total = estimate_images(images) if not images.entry.complete else BuildEstimate(0, 0, 0)
    for teacher in teachers:
        total += estimate_teacher(teacher)
    return total


def estimate_images(images: ImageCacheBuilder) -> BuildEstimate:
    """Estimate the bytes of pixels, labels and masks, and the seconds to read the images."""
    train = images.sets["train"]
    image_bytes = images.image_px**2 * (4 if train.has_masks else 3) + (8 if train.num_classes else 0)
    missing = count_missing(images.entry, images.shards)
    return BuildEstimate(missing * image_bytes, 0, missing * seconds_per_image(lambda: read_first(train)))


def estimate_teacher(builder: TeacherCacheBuilder) -> BuildEstimate:
    """Estimate the bytes of a teacher's targets, at most, and the seconds to read its images and to run it."""
    spec, compression = builder.spec, builder.compression
    larger = spec.source_px > builder.images.image_px
    images = builder.source_images["train"] if larger else builder.images.sets["train"]
    pixels = torch.from_numpy(read_first(images)).permute(0, 3, 1, 2)
    teacher = spec.load().to(builder.device)

    def run() -> None:
        with torch.inference_mode():
            teacher(pixels.to(builder.device).float() / 255)[1].cpu()

    seconds = seconds_per_image(run) + (seconds_per_image(lambda: read_first(images)) if larger else 0)
    numbers = teacher.summary_dim + compression.grid**2 * teacher.spatial_dim
    missing = count_missing(builder.entry, builder.images.shards)
    kept_bytes = missing * numbers * compression.share * CODECS[compression.storage].bits / 8
    calibrating = min(CALIBRATION_SHARDS * SHARD_ITEMS, len(builder.images.sets["train"]))
    return BuildEstimate(kept_bytes, 0 if builder.calibrated else calibrating * numbers * 4, missing * seconds)


def count_missing(entry: CacheEntry, shards: list[Shard]) -> int:
    """Count the items of the shards that are not written."""
    return sum(shard.stop - shard.start for shard in shards if not entry.has(shard))


def read_first(images: ImageSet) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Read the first decodable images (PROBE_IMAGES, S, S, 3), repeated if there are fewer."""
    decoded = []
    for i in range(min(2 * PROBE_IMAGES, len(images))):
        try:
            decoded.append(images.read(i).image)
        except CorruptImage:
            continue
        if len(decoded) == PROBE_IMAGES:
            break
    blank = np.zeros((images.size_px, images.size_px, 3), dtype=np.uint8)
    return np.stack([decoded[i % len(decoded)] if decoded else blank for i in range(PROBE_IMAGES)])


def seconds_per_image(work: Callable[[], object]) -> float:
    """Time `work` on PROBE_IMAGES images with one thread, and assume that a build runs one call per thread.

    The second of two calls is timed.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        work()
        began = time.perf_counter()
        work()
        return (time.perf_counter() - began) / PROBE_IMAGES / threads
    finally:
        torch.set_num_threads(threads)


def format_bytes(count: float) -> str:
    """Format a number of bytes with a decimal unit, as "1.2 GB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def summarize(path: Path) -> str:
    """Summarize a built set in lines: fidelity by teacher and head, size against fp16, and the break-even point."""
    cache_set = read_cache_set(path)
    images = cache_set.images.manifest
    count = sum(record["rows"] for record in images["shards"].values())
    manifests = [entry.manifest for entry in cache_set.teachers.values()]
    lines = [line for manifest in manifests for line in head_lines(manifest)]
    stored, raw = (sum(column) for column in zip(*map(bytes_per_image, manifests), strict=True))
    lines.append(
        f"targets {format_bytes(stored * count)} for {count} images, {raw / stored:.1f} times less than fp16 features"
        f" on the same grid; images {format_bytes(file_bytes(cache_set.images))}; {path}"
    )
    return "\n".join([*lines, break_even(sum(m["seconds"] for m in manifests), images["seconds"], count)])


def head_lines(manifest: dict[str, Any]) -> list[str]:
    """Describe the compression of each head of a teacher in one line."""
    return [
        f"{manifest['teacher']} {head}: {facts['channels']} -> {facts['dims']} channels, {facts['kept']:.3f} of the"
        f" variance; cosine of decompressed to live features {facts['cosine']:.4f} on held-out images;"
        f" {facts['clipped']:.2g} clipped"
        for head, facts in manifest["heads"].items()
    ]


def bytes_per_image(manifest: dict[str, Any]) -> tuple[float, float]:
    """Return a teacher's bytes per image: as stored, and of its raw features in fp16."""
    stored = raw = 0
    for head, facts in manifest["heads"].items():
        cells = 1 if head == "summary" else manifest["grid"] ** 2
        stored += cells * facts["dims"] * CODECS[manifest["storage"]].bits / 8
        raw += cells * facts["channels"] * 2
    return stored, raw


def file_bytes(entry: CacheEntry) -> int:
    """Sum the bytes of an entry's files."""
    return sum(file["bytes"] for file in entry.manifest["files"].values())


def break_even(teachers_s: float, images_s: float, count: int) -> str:
    """Say after how many training steps live teachers would have taken as long as the build of the cache."""
    recipe = DistillConfig()
    batch_s = teachers_s / count * recipe.batch_size
    steps = (teachers_s + images_s) / batch_s
    trial = recipe.rung_steps[-1]
    return (
        f"break-even with live teachers ({1000 * teachers_s / count:.1f} ms an image) after {steps:.0f} steps of"
        f" {recipe.batch_size} images, {steps / trial:.2g} trials of {trial} steps; such a trial would spend"
        f" {batch_s * trial:.0f} s in them"
    )
