"""What building will cost, told before it starts: a few images are read and shown to each teacher."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from nas.cache.codecs import CODECS
from nas.cache.entry import SHARD, Part, Shard
from nas.cache.images import Images
from nas.cache.teacher_features import CALIBRATION_SHARDS, Features
from nas.data import CorruptImage, ImageSet
from nas.progress import clock

if TYPE_CHECKING:
    from nas.cache.build import Plan

PROBED = 16  # images: a mosaic's worth


@dataclass(frozen=True)
class Estimate:
    """Of what is missing: bytes that stay, bytes that go again when it is built, seconds on this machine."""

    stays: float
    passes: float
    seconds: float

    @property
    def line(self) -> str:
        """For people."""
        passing = f" (and {size(self.passes)} while it is built)" if self.passes else ""
        return f"teacher cache: about {size(self.stays)}{passing} and {clock(self.seconds)} to build"

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(self.stays + other.stays, self.passes + other.passes, self.seconds + other.seconds)


def estimate(plan: Plan) -> Estimate:
    """Of everything in the plan that isn't there."""
    total = of_images(plan.images) if not plan.images.part.complete else Estimate(0, 0, 0)
    for teacher in plan.missing:
        total += of_teacher(teacher)
    return total


def of_images(images: Images) -> Estimate:
    """Pixels, label, mask; the time to read."""
    train = images.sets["train"]
    each = images.image_px**2 * (4 if train.has_masks else 3) + (8 if train.num_classes else 0)
    missing = missing_items(images.part, images.shards)
    return Estimate(missing * each, 0, missing * seconds_each(lambda: first(train)))


def of_teacher(features: Features) -> Estimate:
    """At most `share` of the channels; the time to read where the teacher wants larger images, and to run it."""
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
    missing = missing_items(features.part, features.images.shards)
    stays = missing * numbers * compression.share * CODECS[compression.storage].bits / 8
    raw = 0 if features.calibrated else min(CALIBRATION_SHARDS * SHARD, len(features.images.sets["train"]))
    return Estimate(stays, raw * numbers * 4, missing * seconds)


def missing_items(part: Part, shards: list[Shard]) -> int:
    """Items that are still to be done."""
    return sum(shard.stop - shard.start for shard in shards if not part.has(shard))


def first(images: ImageSet) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The first images (PROBED, S, S, 3) that can be decoded, repeated where there are fewer."""
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
    """Seconds an image on this machine, the second time, where batches run beside each other on a thread each."""
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
    """Bytes with a unit, powers of 1,000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
