"""Build one teacher's entry of a cache: its features on the images, standardized and compressed.

The build has two stages. First the teacher runs on the calibration images, the first shards of the train split. Their
raw features are kept, and the statistics of the compression are fitted on them. Then every shard is compressed, from
the kept raw features where they exist; these are deleted afterwards. So a teacher runs once on every image.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from threading import BoundedSemaphore
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from nas.cache.entry import (
    FORMAT,
    SHARD_ITEMS,
    CacheEntry,
    CacheError,
    Done,
    Record,
    Shard,
    WrittenShards,
    read_json,
    write_json,
)
from nas.cache.grid import takes_whole_tokens, to_grid
from nas.cache.images import (
    BATCH,
    ImageCacheBuilder,
    batches,
    decodable_items,
    map_in_order,
    shard_threads,
    stage_progress,
)
from nas.cache.shards import Rows, ShardWriter, mapped
from nas.cache.standardize import (
    HEADS,
    STATISTICS_FILE,
    Compressed,
    Compressor,
    calibrate,
    keeps_whole_summary,
    load_statistics,
    save_statistics,
)
from nas.data import ImageSet, Sample, Split
from nas.data.dataset import Progress, digest
from nas.measure.devices import device_type
from nas.measure.memory import LiveStorages
from nas.teachers import Teacher, TeacherError, TeacherSpec
from nas.teachers.base import activation_fingerprint, complete_mosaics, run_teacher, same_activations
from search_space.memory import memory_bytes

CALIBRATION_SHARDS = 8  # 2,048 images: the covariance of 1,280 channels needs more than a thousand
RAW_SUFFIX = ".raw"

Heads = dict[str, Tensor]  # head -> features (N, C) or (N, C, g, g)
RowBatch = Sequence[int]  # rows of a shard
ReadImages = Callable[[RowBatch], Tensor]  # as uint8 (N, 3, S, S)
T = TypeVar("T")


@dataclass(frozen=True)
class Compression:
    """Settings of the compression. Names and values are part of the fingerprint of an entry.

    Args:
        grid: Side of the spatial targets.
        storage: A name in `nas.cache.codecs.CODECS`.
        share: Share of a teacher's numbers that PCA keeps, see `choose_dims`.
    """

    grid: int
    storage: str
    share: float


class TeacherCacheBuilder:
    """Builds the entry of one teacher for the images of `images`; `entry` is the entry, built or not.

    `precision` is that of the teacher's passes, see `run_teacher`.
    """

    def __init__(
        self, spec: TeacherSpec, images: ImageCacheBuilder, compression: Compression, precision: str = "fp32"
    ) -> None:
        self.spec, self.images, self.compression, self.precision = spec, images, compression, precision
        calibration_images = CALIBRATION_SHARDS * SHARD_ITEMS
        identity = [FORMAT, images.fingerprint, spec.name, spec.fingerprint, spec.source_px, calibration_images]
        side = spec.cached_side(images.image_px)
        # Entries of other ratios once averaged whole tokens; those of whole ratios have the key that they had.
        resized = [] if side and takes_whole_tokens(side, compression.grid) else ["parts of tokens"]
        whole = keeps_whole_summary(spec.widths, compression.grid**2, compression.share)
        rule = ["whole summary"] if whole else []  # other entries have the key that they had before there was this rule
        # Entries in fp32 have the key that they had before there was a choice.
        rounded = [] if precision == "fp32" else [("precision", precision)]
        self.fingerprint = digest([*identity, *asdict(compression).items(), *resized, *rule, *rounded])
        self.entry = CacheEntry.of(images.entry.folder.parent, f"targets-{spec.slug}", self.fingerprint)
        self.device = torch.device(device_type("auto"))

    def build(self, progress: Progress) -> None:
        """Build the entry, sharing the work with other processes. The images' entry must be complete."""
        self.entry.open()
        calibration = self.calibration_shards
        done = stage_progress(progress, self.calibration_stage, calibration[-1].stop)
        self.entry.fill(calibration, self.written_raw, self.write_raw_shard, done)
        self.calibrate(calibration)
        for split, images in self.images.sets.items():
            done = stage_progress(progress, self.stage(split), len(images))
            self.entry.fill(self.images.shards_of(split), self.entry.written, self.write_shard, done)
        self.entry.finish(self.images.shards, [self.entry.folder / STATISTICS_FILE], self.describe)
        self.forget_teacher()

    @property
    def calibration_shards(self) -> list[Shard]:
        """Return the shards on which the statistics of the compression are fitted."""
        return self.images.shards_of("train")[:CALIBRATION_SHARDS]

    @property
    def calibration_stage(self) -> str:
        """Return the name of the first stage of a build."""
        return f"{self.spec.name} on {self.calibration_shards[-1].stop} train images, to fit its standardization"

    def stage(self, split: Split) -> str:
        """Return the name of the stage of a build in which the targets of a split are written."""
        return f"{self.spec.name} on {split} images"

    def forget_teacher(self) -> None:
        """Free the teacher's memory, for the next teacher; it is loaded again when it is needed."""
        for name in ("teacher", "pass_limits"):
            self.__dict__.pop(name, None)

    @property
    def calibrated(self) -> bool:
        """Tell whether the statistics are written."""
        return (self.entry.folder / STATISTICS_FILE).exists()

    @property
    def written_raw(self) -> WrittenShards:
        """Return the shards whose raw features are written, or no longer needed. Their records are removed then."""
        return WrittenShards(self.raw_record, lambda: self.calibrated)

    def raw_record(self, shard: Shard) -> Path:
        """Return the path of the record of a shard's raw features."""
        return self.entry.working / f"{shard.name}{RAW_SUFFIX}.json"

    def write_raw_shard(self, shard: Shard, done: Done) -> None:
        """Run the teacher on a shard and write its raw features."""
        began = time.perf_counter()
        with ShardWriter(self.entry.working, shard.name, RAW_SUFFIX) as writer:
            for heads in self.map_batches(shard, self.live_features(self.image_reader(shard)), done):
                writer.append({head: features.cpu().numpy() for head, features in heads.items()})
        write_json(self.raw_record(shard), {"seconds": time.perf_counter() - began})

    def calibrate(self, shards: Sequence[Shard]) -> None:
        """Fit the statistics on the raw features of `shards` and write them, unless another process has."""

        def raw_batches() -> Iterator[Rows]:
            for shard in shards:
                for rows in self.row_batches(shard):
                    yield {head: features.numpy() for head, features in self.raw_features(shard, rows).items()}

        with self.entry.lock("statistics"):
            if not self.calibrated:
                save_statistics(self.entry.folder, calibrate(raw_batches, self.compression.share))

    def write_shard(self, shard: Shard, done: Done) -> None:
        """Write a shard's targets, from its raw features if all of them exist, and delete these.

        The record of raw features stays when their files go: a process that lost its lock may come after another.

        Raises:
            CacheError: The targets have other rows than the images; what another process wrote stays.
        """
        began, earlier = time.perf_counter(), 0.0
        if self.raw_record(shard).exists() and all(path.exists() for path in self.raw_paths(shard).values()):
            read: Callable[[RowBatch], Heads] = partial(self.raw_features, shard)
            earlier = read_json(self.raw_record(shard))["seconds"]
        else:
            read = self.live_features(self.image_reader(shard))
        sums = {head: {"clipped": 0, "cosine": 0.0} for head in self.compressors}
        with ShardWriter(self.entry.folder, shard.name) as writer:
            for heads in self.map_batches(shard, lambda rows: self.compress(read(rows)), done):
                writer.append({head: compressed.codes for head, compressed in heads.items()})
                for head, (_, clipped, cosine) in heads.items():
                    sums[head]["clipped"] += clipped
                    sums[head]["cosine"] += cosine
            if writer.rows != (rows := self.rows_of(shard)):  # raised here, so that no file is replaced
                raise CacheError(
                    f"teacher cache: {self.spec.name} has features of {writer.rows} of the {rows} images in"
                    f" {shard.name}; run the command again"
                )
        seconds = earlier + time.perf_counter() - began
        self.entry.record(shard, writer.rows, writer.paths, seconds=seconds, heads=sums)
        for path in self.raw_paths(shard).values():
            path.unlink(missing_ok=True)

    def map_batches(self, shard: Shard, work: Callable[[RowBatch], T], done: Done) -> Iterator[T]:
        """Yield the results of `work` on a shard's batches, in order."""
        for rows, result in zip(self.row_batches(shard), map_in_order(work, self.row_batches(shard)), strict=True):
            yield result
            done(rows[-1] + 1)

    def row_batches(self, shard: Shard) -> Iterator[RowBatch]:
        """Yield a shard's rows in batches. These are fixed, since an image's features depend on its mosaic."""
        return batches(range(self.rows_of(shard)))

    def rows_of(self, shard: Shard) -> int:
        """Return the number of a shard's images that could be decoded."""
        rows: int = self.images.entry.manifest["shards"][shard.name]["rows"]
        return rows

    def live_features(self, read_images: ReadImages) -> Callable[[RowBatch], Heads]:
        """Return a function that runs the teacher on the images that `read_images` returns.

        The teacher is loaded before it returns, so that the threads that call the function share one teacher.
        """
        teacher = self.teacher
        passes, at_once = self.pass_limits

        def run(rows: RowBatch) -> Heads:
            images = read_images(rows)
            with passes:
                return in_passes(partial(self._heads, teacher), images, at_once, teacher.tiles)

        return run

    def _heads(self, teacher: Teacher, images: Tensor) -> Heads:
        """Run the teacher on uint8 images (N, 3, S, S).

        Raises:
            TeacherError: A feature is no finite number. Stored in eight bits it would look like any other.
        """
        summary, spatial = run_teacher(teacher, images.to(self.device), self.precision)
        heads = {"spatial": to_grid(spatial, self.compression.grid)} | ({} if summary is None else {"summary": summary})
        for head, features in heads.items():
            if not torch.isfinite(features).all():
                raise TeacherError(
                    f"teacher {self.spec.name}: its {head} features are not finite on some images, in {self.precision};"
                    " damaged weights do this, and with --teacher-precision bf16 large activations"
                )
        return heads

    @property
    def teacher_px(self) -> int:
        """Return the side of the images that the teacher sees."""
        return max(self.spec.source_px, self.images.image_px)

    @cached_property
    def pass_limits(self) -> tuple[BoundedSemaphore, int]:
        """Return what limits the passes that run at the same time, and how many images each takes.

        Both are found once for all shards: each runs the whole teacher without data, during which a GPU would be idle.
        """
        at_once = images_at_once(self.teacher, self.device, self.teacher_px)
        return BoundedSemaphore(self.passes_at_once(self.teacher)), at_once

    def passes_at_once(self, teacher: Teacher) -> int:
        """Return how many batches the teacher takes at the same time: as many as there are threads and memory.

        SAM ViT-H at 1024 px takes 6.8 GB for a batch, two mosaics: a batch on each of 16 threads would not fit a GPU.
        """
        needed = activation_bytes(teacher, BATCH, self.teacher_px)
        return max(1, min(shard_threads(), _half_of_memory(self.device) // needed))

    def image_reader(self, shard: Shard) -> ReadImages:
        """Return a function that reads rows of a shard.

        These are the cached images if they are large enough for the teacher, else the source's images at its size.
        """
        if self.spec.source_px <= self.images.image_px:
            path = self.images.entry.folder / f"{shard.name}-images.npy"
            return lambda rows: torch.from_numpy(mapped(path)[list(rows)])
        images = self.source_images[shard.split]
        items = decodable_items(shard, self.images.entry.manifest["shards"][shard.name])
        return lambda rows: read_pixels(images.read, [items[row] for row in rows])

    def raw_features(self, shard: Shard, rows: RowBatch) -> Heads:
        """Read raw features from the working folder; CacheError where a file is missing."""
        return {head: torch.from_numpy(mapped(path)[list(rows)]) for head, path in self.raw_paths(shard).items()}

    def raw_paths(self, shard: Shard) -> dict[str, Path]:
        """Return the files of a shard's raw features by head: of those heads that the teacher has."""
        heads = (head for head, width in zip(HEADS, self.spec.widths, strict=True) if width)
        return {head: self.entry.working / f"{shard.name}-{head}{RAW_SUFFIX}.npy" for head in heads}

    def compress(self, heads: Heads) -> dict[str, Compressed]:
        """Compress the features of every head."""
        with torch.inference_mode():
            return {head: self.compressors[head](features) for head, features in heads.items()}

    @cached_property
    def compressors(self) -> dict[str, Compressor]:
        """Return a compressor for every head, from the written statistics."""
        statistics = load_statistics(self.entry.folder)
        return {head: Compressor(fitted, self.compression.storage, self.device) for head, fitted in statistics.items()}

    @cached_property
    def source_images(self) -> dict[Split, ImageSet]:
        """Return the images at the teacher's size, by split."""
        return {split: self.images.source.open(split, self.spec.source_px) for split in self.images.sets}

    @cached_property
    def teacher(self) -> Teacher:
        """Return the loaded teacher; CacheError if its activations differ from those of the existing shards."""
        teacher = self.spec.load().to(self.device)
        activations = activation_fingerprint(teacher)
        # A complete entry changes no more, and may be another user's, in which no lock can be taken.
        with nullcontext() if self.entry.complete else self.entry.lock("activations"):
            recorded = self.recorded_activations()
            if recorded is None:
                write_json(self.activations_path, {"activations": activations})
            elif not same_activations(activations, recorded):
                raise CacheError(
                    f"teacher cache: {self.spec.name} computes other features now than in {self.entry.folder}"
                    " (normalization? version?); delete it to rebuild it"
                )
        return teacher

    @property
    def activations_path(self) -> Path:
        """Return the path of the teacher's activations while the entry is incomplete."""
        return self.entry.working / "activations.json"

    def recorded_activations(self) -> Sequence[float] | None:
        """Return the activations of the teacher that computed the existing shards, None without shards."""
        try:
            recorded: list[float] = read_json(self.activations_path)["activations"]
            return recorded
        except FileNotFoundError:
            # The manifest is read last, since the file is removed after it was written.
            final: list[float] | None = self.entry.manifest["activations"] if self.entry.complete else None
            return final

    def describe(self, records: dict[str, Record]) -> Record:
        """Return the manifest's content apart from the shards."""
        val = [record for name, record in records.items() if name.startswith("val-")]
        heads = {}
        for head, (standardizer, _) in load_statistics(self.entry.folder).items():
            cells = 1 if head == "summary" else self.compression.grid**2
            vectors = cells * sum(record["rows"] for record in records.values())
            clipped = sum(record["heads"][head]["clipped"] for record in records.values())
            cosine = sum(record["heads"][head]["cosine"] for record in val)
            heads[head] = {
                "channels": len(standardizer.mean),
                "dims": standardizer.dims,
                "kept": standardizer.kept,
                "cosine": cosine / (cells * sum(record["rows"] for record in val)),
                "clipped": clipped / (vectors * standardizer.dims),
            }
        return {
            "teacher": self.spec.name,
            "teacher_fingerprint": self.spec.fingerprint,
            "fingerprint": self.fingerprint,
            "images": self.images.fingerprint,
            "precision": self.precision,
            **asdict(self.compression),
            "heads": heads,
            "activations": read_json(self.activations_path)["activations"],
            "seconds": round(sum(record["seconds"] for record in records.values()), 3),
        }


def images_at_once(teacher: Teacher, device: torch.device, px: int) -> int:
    """Return how many images of `px` a teacher takes in a pass: a batch, or what half of the device's memory holds.

    SAM ViT-B takes 81 GB for 32 images of 1024 px. They are whole mosaics, since features depend on a mosaic's images.
    """
    needed, memory, mosaic = activation_bytes(teacher, BATCH, px), _half_of_memory(device), teacher.tiles**2
    return BATCH if needed <= memory else max(mosaic, BATCH * memory // needed // mosaic * mosaic)


def in_passes(run: Callable[[Tensor], Heads], images: Tensor, at_once: int, tiles: int) -> Heads:
    """Run a teacher on a batch in passes of `images_at_once`, and return the features that one pass would have.

    Args:
        run: Runs the teacher on images.
        images: The batch (N, 3, S, S).
        at_once: Number of images of a pass.
        tiles: That of the teacher. Mosaics are completed before the batch is divided, which leaves them as they are.
    """
    if len(images) <= at_once:
        return run(images)
    parts = [run(part) for part in torch.split(complete_mosaics(images, tiles), at_once)]
    return {head: torch.cat([part[head] for part in parts])[: len(images)] for head in parts[0]}


def _half_of_memory(device: torch.device) -> int:
    """Return half of the bytes that are free on a GPU, or that this process can have on a CPU."""
    return int(torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory_bytes()) // 2


def activation_bytes(teacher: Teacher, count: int, px: int) -> int:
    """Return the peak bytes of a teacher's activations on `count` images of `px` in fp32; nothing is computed.

    In bf16 they are fewer.
    """
    tensors = dict(chain(teacher.named_parameters(), teacher.named_buffers()))
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    images, live = torch.zeros(count, 3, px, px, device="meta"), LiveStorages()
    with torch.no_grad(), live:
        functional_call(teacher, shapes, (images,))
    return max(1, live.peak_bytes)


def read_pixels(read: Callable[[int], Sample], items: Sequence[int]) -> Tensor:
    """Read images that can be decoded as uint8 (N, 3, S, S)."""
    return torch.from_numpy(np.stack([read(i).image for i in items])).permute(0, 3, 1, 2)
