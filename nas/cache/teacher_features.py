"""Build one teacher's entry of a cache: its features on the images, standardized and compressed.

Statistics come first, from the first train images (the calibration), whose raw features are kept until they are
compressed in turn: a teacher sees every image once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from nas.cache.entry import FORMAT, SHARD, CacheEntry, CacheError, Done, Record, Shard, write_json
from nas.cache.images import ImageCacheBuilder, Progress, batches, good, in_order, stage
from nas.cache.shards import Rows, ShardWriter, mapped
from nas.cache.standardize import (
    FILE,
    HEADS,
    Compressed,
    Compressor,
    calibrate,
    load_statistics,
    save_statistics,
    to_grid,
)
from nas.data import ImageSet, Split
from nas.data.dataset import digest
from nas.teachers import Teacher, TeacherSpec
from nas.teachers.base import activation_fingerprint, same_activations

CALIBRATION_SHARDS = 8  # 2,048 images: covariances of 1,280 channels need more than a thousand
RAW = ".raw"

Heads = dict[str, Tensor]  # head -> features (N, C) or (N, C, g, g)
Positions = Sequence[int]  # rows of a shard
T = TypeVar("T")


@dataclass(frozen=True)
class Compression:
    """Spatial maps as `grid` x `grid`; `share` of the numbers kept by PCA, see `choose_dims`; `storage` of each."""

    grid: int
    storage: str
    share: float


class TeacherCacheBuilder:
    """Builds the entry of one teacher on `images`; `entry` is where its targets lie, or will."""

    def __init__(self, spec: TeacherSpec, images: ImageCacheBuilder, compression: Compression) -> None:
        self.spec, self.images, self.compression = spec, images, compression
        plan = [FORMAT, images.fingerprint, spec.name, spec.fingerprint, spec.source_px, CALIBRATION_SHARDS * SHARD]
        self.fingerprint = digest([*plan, *asdict(compression).items()])
        self.entry = CacheEntry(images.entry.folder.parent / f"targets-{spec.slug}-{self.fingerprint}")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def build(self, progress: Progress) -> None:
        """Fill the entry, together with other processes that do; the images' entry is complete."""
        self.entry.open()
        first = self.images.shards_of("train")[:CALIBRATION_SHARDS]
        told = stage(progress, f"{self.spec.name} on the first train images", first[-1].stop)
        self.entry.fill(first, self.has_raw, self.make_raw, told)
        self.calibrate(first)
        for split, images in self.images.sets.items():
            told = stage(progress, f"{self.spec.name} on {split} images", len(images))
            self.entry.fill(self.images.shards_of(split), self.entry.has, self.make, told)
        self.entry.finish(self.images.shards, [self.entry.folder / FILE], self.about)
        self.__dict__.pop("teacher", None)  # the next one needs its memory

    @property
    def calibrated(self) -> bool:
        return (self.entry.folder / FILE).exists()

    def has_raw(self, shard: Shard) -> bool:
        # Statistics are asked last: raw records are removed after they were written.
        return self.raw_record(shard).exists() or self.calibrated

    def raw_record(self, shard: Shard) -> Path:
        return self.entry.working / f"{shard.name}{RAW}.json"

    def make_raw(self, shard: Shard, done: Done) -> None:
        """Keep a shard's raw features for the statistics."""
        began = time.perf_counter()
        with ShardWriter(self.entry.working, shard.name, RAW) as writer:
            for heads in self.run(shard, self.live(shard), done):
                writer.append({head: features.cpu().numpy() for head, features in heads.items()})
        write_json(self.raw_record(shard), {"seconds": time.perf_counter() - began})

    def calibrate(self, shards: Sequence[Shard]) -> None:
        """Write the statistics, unless another process has."""

        def raw() -> Iterator[Rows]:
            for shard in shards:
                for positions in self.positions(shard):
                    yield {head: features.numpy() for head, features in self.kept(shard, positions).items()}

        with self.entry.lock("statistics"):
            if not self.calibrated:
                save_statistics(self.entry.folder, calibrate(raw, self.compression.share))

    def make(self, shard: Shard, done: Done) -> None:
        """Write a shard's targets, from its raw features where they were kept."""
        began, earlier = time.perf_counter(), 0.0
        if self.raw_record(shard).exists():
            features: Callable[[Positions], Heads] = partial(self.kept, shard)
            earlier = json.loads(self.raw_record(shard).read_text())["seconds"]
        else:
            features = self.live(shard)
        sums = {head: {"clipped": 0, "cosine": 0.0} for head in self.compressors}
        with ShardWriter(self.entry.folder, shard.name) as writer:
            for heads in self.run(shard, lambda positions: self.compress(features(positions)), done):
                writer.append({head: compressed.codes for head, compressed in heads.items()})
                for head, (_, clipped, cosine) in heads.items():
                    sums[head]["clipped"] += clipped
                    sums[head]["cosine"] += cosine
        seconds = earlier + time.perf_counter() - began
        self.entry.record(shard, writer.rows, writer.paths, seconds=seconds, heads=sums)
        for path in self.entry.working.glob(f"{shard.name}-*{RAW}.npy"):
            path.unlink(missing_ok=True)

    def run(self, shard: Shard, work: Callable[[Positions], T], done: Done) -> Iterator[T]:
        """Yield the results of `work` on a shard's batches."""
        for batch, result in zip(self.positions(shard), in_order(work, self.positions(shard)), strict=True):
            yield result
            done(batch[-1] + 1)

    def positions(self, shard: Shard) -> Iterator[Positions]:
        """Yield the rows of a shard, a batch at a time: the same batches whoever builds, for mosaics hold neighbors."""
        return batches(range(self.images.entry.manifest["shards"][shard.name]["rows"]))

    def live(self, shard: Shard) -> Callable[[Positions], Heads]:
        """Return a function that runs the teacher on some images of a shard.

        The teacher is loaded here, not in several threads.
        """
        teacher, view = self.teacher, self.view(shard)

        def describe(positions: Positions) -> Heads:
            with torch.inference_mode():
                summary, spatial = teacher(view(positions).to(self.device).float() / 255)
                heads = {"spatial": to_grid(spatial, self.compression.grid)}
                return heads if summary is None else {"summary": summary, **heads}

        return describe

    def view(self, shard: Shard) -> Callable[[Positions], Tensor]:
        """Return a function that reads images uint8 (N, 3, S, S), at the teacher's size or a sufficient student's."""
        if self.spec.source_px <= self.images.image_px:
            path = self.images.entry.folder / f"{shard.name}-images.npy"
            return lambda positions: torch.from_numpy(mapped(path)[list(positions)])
        images, items = self.large[shard.split], good(shard, self.images.entry.manifest["shards"][shard.name])

        def read(positions: Positions) -> Tensor:
            pixels = [images.read(items[position]).image for position in positions]
            return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)

        return read

    def kept(self, shard: Shard, positions: Positions) -> Heads:
        """Read the raw features that were kept."""
        paths = {head: self.entry.working / f"{shard.name}-{head}{RAW}.npy" for head in HEADS}
        rows = {head: mapped(path)[list(positions)] for head, path in paths.items() if path.exists()}
        return {head: torch.from_numpy(features) for head, features in rows.items()}

    def compress(self, heads: Heads) -> dict[str, Compressed]:
        with torch.inference_mode():
            return {head: self.compressors[head](features) for head, features in heads.items()}

    @cached_property
    def compressors(self) -> dict[str, Compressor]:
        fitted = load_statistics(self.entry.folder)
        return {head: Compressor(found, self.compression.storage, self.device) for head, found in fitted.items()}

    @cached_property
    def large(self) -> dict[Split, ImageSet]:
        """The images at the teacher's size."""
        return {split: self.images.source.open(split, self.spec.source_px) for split in self.images.sets}

    @cached_property
    def teacher(self) -> Teacher:
        """Loaded when first asked for; CacheError if it computes something else than for the shards that are there."""
        teacher = self.spec.load().to(self.device)
        found = activation_fingerprint(teacher)
        with self.entry.lock("activations"):
            known = self.known_activations()
            if known is None:
                write_json(self.activations_path, found)
            elif not same_activations(found, known):
                raise CacheError(
                    f"teacher cache: {self.spec.name} computes something else now than in {self.entry.folder}"
                    " (normalisation? version?); delete it to rebuild it"
                )
        return teacher

    @property
    def activations_path(self) -> Path:
        return self.entry.working / "activations.json"

    def known_activations(self) -> Sequence[float] | None:
        """Return the activations of the teacher that made the shards that are there; None if there are none."""
        try:
            recorded: list[float] = json.loads(self.activations_path.read_text())
            return recorded
        except FileNotFoundError:
            # The manifest is asked last: the file is removed after it was written.
            whole: list[float] | None = self.entry.manifest["activations"] if self.entry.complete else None
            return whole

    def about(self, records: dict[str, Record]) -> Record:
        """Return what the manifest says beside the shards."""
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
            **asdict(self.compression),
            "heads": heads,
            "activations": json.loads(self.activations_path.read_text()),
            "seconds": round(sum(record["seconds"] for record in records.values()), 3),
        }
