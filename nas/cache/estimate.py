"""Estimate the cost of building a cache, follow a build by it, and summarize a built one: bytes, seconds, fidelity.

An estimate times the reading of a few images and each teacher on them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas.cache.codecs import CODECS
from nas.cache.entry import SHARD_ITEMS, CacheEntry, CacheError
from nas.cache.images import SPLITS, ImageCacheBuilder, shard_threads
from nas.cache.poses import missing_poses, poses_stage
from nas.cache.targets import read_cache_set
from nas.cache.teacher_features import CALIBRATION_SHARDS, TeacherCacheBuilder, images_at_once
from nas.data import CorruptImage, ImageSet
from nas.data.dataset import Progress, evenly_spaced
from nas.numbers import clock, format_bytes, plural
from nas.study.config import DistillConfig
from nas.teachers.base import Teacher, run_teacher

PROBE_IMAGES = 16  # a mosaic of 4 x 4
SLOW_S = 2.0  # a teacher that takes longer for its first input is timed on that alone
TIMING = "timing the teachers"


@dataclass(frozen=True)
class BuildEstimate:
    """Cost of building entries on this machine.

    Attributes:
        kept_bytes: Bytes that stay.
        temporary_bytes: Bytes that exist during the build only, at most.
        stages: Seconds of each stage of the build, if the machine is idle.
    """

    kept_bytes: float = 0.0
    temporary_bytes: float = 0.0
    stages: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Return the seconds of all stages."""
        return sum(self.stages.values())

    @property
    def line(self) -> str:
        """Return the estimate in one line."""
        temporary = f", plus {format_bytes(self.temporary_bytes)} during the build" if self.temporary_bytes else ""
        steps = plural(len(self.stages), "step")
        build = f"building it takes about {clock(self.seconds)} on an idle machine, in {steps}"
        return f"teacher cache: about {format_bytes(self.kept_bytes)} on disk{temporary}; {build}"

    def __add__(self, other: BuildEstimate) -> BuildEstimate:
        return BuildEstimate(
            self.kept_bytes + other.kept_bytes,
            max(self.temporary_bytes, other.temporary_bytes),  # teachers are run one after the other
            {**self.stages, **other.stages},
        )


class BuildProgress:
    """Reports a build's stages with their numbers, and the whole build in percent of its estimated seconds.

    What shows the percents takes the remaining time from their pace, so that it corrects the estimate.

    Args:
        progress: Called with (stage, done, total).
        stages: Estimated seconds of each stage.
    """

    def __init__(self, progress: Progress, stages: Mapping[str, float]) -> None:
        self._progress, self._stages = progress, stages
        self._done: dict[str, float] = {}  # stage -> share that is done, in the order of the build

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report that `done` of `total` are done in a stage."""
        if stage not in self._stages:
            self._progress(stage, done, total)
            return
        self._done[stage] = done / total
        steps, whole_s = len(self._stages), sum(self._stages.values())
        if steps > 1 and whole_s:
            done_s = sum(self._stages[name] * share for name, share in self._done.items())
            self._progress(f"teacher cache, percent of all {steps} steps", int(100 * done_s / whole_s), 100)
        self._progress(f"step {list(self._done).index(stage) + 1} of {steps}: {stage}", done, total)


def estimate(
    images: ImageCacheBuilder,
    teachers: Sequence[TeacherCacheBuilder],
    progress: Progress = lambda stage, done, total: None,
) -> BuildEstimate:
    """Estimate the cost of what is missing of the images' entry and of the teachers' entries, with their poses.

    `progress` is called with (stage, done, total): a large teacher takes a minute to load.

    Raises:
        CacheError: The disk has less space; what is known to be too much is refused before the next teacher is loaded.
    """
    root, total = images.entry.folder.parent, estimate_images(images)
    _check_room(root, total)
    timed = [teacher for teacher in teachers if any(_missing_passes(teacher).values())]
    for teacher in teachers:
        if teacher in timed:
            progress(TIMING, timed.index(teacher), len(timed))
        total += estimate_teacher(teacher)
        _check_room(root, total)
    if timed:
        progress(TIMING, len(timed), len(timed))
    return total


def _check_room(root: Path, cost: BuildEstimate) -> None:
    """Raise CacheError where what is missing does not fit on the disk of the cache."""
    needed, free = cost.kept_bytes + cost.temporary_bytes, shutil.disk_usage(root).free
    if needed > free:
        raise CacheError(
            f"--cache: needs {format_bytes(needed)} or more, and {str(root)!r} has {format_bytes(free)} free; name"
            " a larger disk, delete old entries with backbone-nas cache gc, or lower --train-images or --views"
        )


def estimate_images(images: ImageCacheBuilder) -> BuildEstimate:
    """Estimate the bytes of pixels, labels and masks that are missing, and the seconds to read these images."""
    if images.entry.complete:
        return BuildEstimate()
    train = images.sets["train"]
    image_bytes = images.image_px**2 * (4 if train.has_masks else 3) + (8 if train.num_classes else 0)
    image_s, written = _seconds_to_read(train), images.entry.written
    missing = {split: written.count_missing(images.shards_of(split)) for split in SPLITS}
    stages = {images.stage(split): image_s * count for split, count in missing.items()}
    return BuildEstimate(sum(missing.values()) * image_bytes, 0.0, stages)


def estimate_teacher(builder: TeacherCacheBuilder) -> BuildEstimate:
    """Estimate the bytes of a teacher's missing targets, at most, and the seconds to read its images and to run it."""
    passes = _missing_passes(builder)
    if not sum(passes.values()):
        return BuildEstimate(stages=dict.fromkeys(passes, 0.0))
    spec, compression = builder.spec, builder.compression
    larger = spec.source_px > builder.images.image_px
    images = builder.source_images["train"] if larger else builder.images.sets["train"]
    pixels = torch.from_numpy(read_some(images)).permute(0, 3, 1, 2)
    teacher = spec.load().to(builder.device)
    at_once = images_at_once(teacher, builder.device, builder.teacher_px)

    def run(count: int) -> None:
        for part in torch.split(pixels[:count], at_once):
            run_teacher(teacher, part.to(builder.device), builder.precision).spatial.cpu()

    seconds = seconds_per_image(run, teacher.tiles**2) / parallel_passes(builder, teacher)
    if larger:
        seconds += _seconds_to_read(images)
    numbers = teacher.summary_dim + compression.grid**2 * teacher.spatial_dim
    missing = builder.entry.written.count_missing(builder.images.shards)
    kept_bytes = missing * numbers * compression.share * CODECS[compression.storage].dtype.itemsize
    calibrating = min(CALIBRATION_SHARDS * SHARD_ITEMS, len(builder.images.sets["train"]))
    temporary_bytes = 0 if builder.calibrated else calibrating * numbers * 4
    return BuildEstimate(kept_bytes, temporary_bytes, {stage: seconds * count for stage, count in passes.items()})


def parallel_passes(builder: TeacherCacheBuilder, teacher: Teacher) -> int:
    """Return how many passes take as long as one that runs alone.

    Threads of a CPU run a batch each. A GPU is busy with one batch: the other threads read images, or wait for it.
    """
    return 1 if builder.device.type == "cuda" else builder.passes_at_once(teacher)


def _missing_passes(builder: TeacherCacheBuilder) -> dict[str, int]:
    """Return how many images the teacher still processes in each stage of the build of its entry and its poses."""
    passes: dict[str, int] = {}
    if not builder.entry.complete:
        calibration = builder.calibration_shards
        passes[builder.calibration_stage] = builder.written_raw.count_missing(calibration)
        for split in SPLITS:
            shards = [shard for shard in builder.images.shards_of(split) if shard not in calibration]
            passes[builder.stage(split)] = builder.entry.written.count_missing(shards)
    if poses := missing_poses(builder):
        passes[poses_stage(builder)] = poses
    return passes


def read_some(images: ImageSet, count: int = PROBE_IMAGES) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Read decodable images from all of a set (count, S, S, 3), repeated if there are fewer.

    The plain images of an augmented set come first, and take less than half of the time of the others.
    """
    indices, decoded = evenly_spaced(len(images), 2 * count), []
    for i in (*indices[::2], *indices[1::2]):  # the second half in place of images that cannot be decoded
        try:
            decoded.append(images.read(i).image)
        except CorruptImage:
            continue
        if len(decoded) == count:
            break
    blank = np.zeros((images.size_px, images.size_px, 3), dtype=np.uint8)
    return np.stack([decoded[i % len(decoded)] if decoded else blank for i in range(count)])


def _seconds_to_read(images: ImageSet) -> float:
    """Time the reading of images as a build reads them: a shard's batches in threads, one shard after the other."""
    return seconds_per_image(lambda count: read_some(images, count)) / shard_threads()


def seconds_per_image(work: Callable[[int], object], input_images: int = 1) -> float:
    """Time `work` on images with one thread.

    The first call, on one input, warms up; it is the timing where it takes longer than SLOW_S. Else the second call, on
    PROBE_IMAGES images, is timed.

    Args:
        work: Called with a number of images.
        input_images: Images in one input.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for count in (input_images, PROBE_IMAGES):
            began = time.perf_counter()
            work(count)
            seconds = time.perf_counter() - began
            if seconds > SLOW_S:
                break
        return seconds / count
    finally:
        torch.set_num_threads(threads)


def summarize(path: Path) -> str:
    """Summarize a built set in lines: fidelity by teacher and head, size against fp16, and the break-even point."""
    cache_set = read_cache_set(path)
    images = cache_set.images.manifest
    count = sum(record["rows"] for record in images["shards"].values())
    manifests = [entry.manifest for entry in cache_set.teachers.values()]
    lines = [line for manifest in manifests for line in head_lines(manifest)]
    stored, raw = (sum(column) for column in zip(*map(bytes_per_image, manifests), strict=True))
    lines.append(
        f"targets {format_bytes(stored * count)} for {count} images, {raw / stored:.1f} times smaller than fp16"
        f" features on the same grid; images {format_bytes(file_bytes(cache_set.images))}; {path}"
    )
    return "\n".join([*lines, break_even(sum(m["seconds"] for m in manifests), images["seconds"], count)])


def head_lines(manifest: dict[str, Any]) -> list[str]:
    """Describe the compression of each head of a teacher in one line."""
    return [
        f"{manifest['teacher']} {head}: {facts['channels']} -> {facts['dims']} channels, {facts['kept']:.3f} of the"
        f" variance; cosine of decompressed to live features {facts['cosine']:.4f} on held-out images;"
        f" share of values clipped {facts['clipped']:.2g}"
        for head, facts in manifest["heads"].items()
    ]


def bytes_per_image(manifest: dict[str, Any]) -> tuple[float, float]:
    """Return a teacher's bytes per image: as stored, and of its raw features in fp16."""
    stored = raw = 0
    for head, facts in manifest["heads"].items():
        cells = 1 if head == "summary" else manifest["grid"] ** 2
        stored += cells * facts["dims"] * CODECS[manifest["storage"]].dtype.itemsize
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
        f"break-even: the build took as long as running the teachers ({1000 * teachers_s / count:.1f} ms per image) in"
        f" {steps:.0f} training steps of {recipe.batch_size} images, which are {steps / trial:.2g} trials of"
        f" {trial} steps; without the cache, each such trial would run the teachers for {batch_s * trial:.0f} s"
    )
