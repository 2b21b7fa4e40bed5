"""Batches whose targets the teachers compute while the student trains, on images that no cache has to hold.

Every epoch shows each image in another augmentation: a resized crop, a flip, colors. Student and teachers see the same
one, each at its own size. Without augmentation they see the central squares of the images, as a cache stores them. The
targets are computed in the precision of the cached ones, and standardized by their statistics.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nas.cache import CacheError
from nas.cache.build import STUDY_SEED
from nas.cache.grid import to_grid
from nas.cache.images import BATCH
from nas.cache.standardize import StandardizerOnDevice
from nas.cache.targets import Targets, read_cache_set
from nas.cache.teacher_features import images_at_once, in_passes
from nas.data import CorruptImage, ImageSet, open_images
from nas.data.dataset import Pixels, Progress, digest
from nas.distill.batches import Batch, BatchPlan, Indices, resize_images
from nas.distill.heads import normalize
from nas.teachers import Teacher, TeacherSpec, specs
from nas.teachers.base import activation_fingerprint, run_teacher, same_activations
from search_space.arch import SIZE_MULTIPLE_PX

MAX_EPOCHS = 1_000_000
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class LiveTeachers:
    """Teachers that run while the student trains.

    Args:
        data: The images, as `nas.data.open_images` takes them.
        images: Number of images to train on.
        teachers: A comma list of teachers and sets.
        root: Folder of downloads.
        weights: Files with teachers' weights, by teacher.
        devices: Devices of the teachers, one after another in turns; "cuda" alone, or none, for the student's.
        augment: Whether the images are augmented.
    """

    data: str
    images: int
    teachers: str
    root: Path
    weights: Mapping[str, Path] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    augment: bool = True

    def open(self, px: int, progress: Progress = lambda stage, done, total: None) -> ImageSet:
        """Open the images as squares of `px`, in MAX_EPOCHS views, of which the first shows them as they are.

        Args:
            px: Side of the squares.
            progress: Called with (stage, done, total) during downloads.
        """
        return open_images(self.data, "train", self.images, STUDY_SEED, px, self.root, MAX_EPOCHS, progress)

    def count(self, progress: Progress) -> tuple[int, int, str]:
        """Return the number of images to train on, at most `images`, that of those that there are, and a digest.

        What is missing here is downloaded.
        """
        images = self.open(SIZE_MULTIPLE_PX, progress)
        return len(images) // MAX_EPOCHS, images.available, images.fingerprint


class LiveSource:
    """A source of batches, see `nas.distill.batches.BatchSource`.

    Args:
        settings: Images and teachers.
        targets: The cached targets, whose statistics standardize the teachers' features.
        device: Device of the student.
        threads: Images that are decoded at a time.

    Raises:
        CacheError: A teacher is not the one whose statistics are cached, or answers differently.
        DataError: The images cannot be opened.
        TeacherError: A teacher cannot be loaded.
    """

    def __init__(self, settings: LiveTeachers, targets: Targets, device: torch.device, threads: int = 2) -> None:
        self._augment, self._grid = settings.augment, targets.grid
        # "cuda" alone would be the current GPU of a thread that reads, which is the first one.
        devices = [device if name == device.type else torch.device(name) for name in settings.devices] or [device]
        chosen = specs(settings.teachers, settings.weights)
        self._teachers = {
            spec.name: _LiveTeacher(spec, targets, devices[number % len(devices)]) for number, spec in enumerate(chosen)
        }
        self._images = settings.open(targets.image_px)
        self._count = len(self._images) // MAX_EPOCHS
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="images")  # they end with this object
        # Batches are read by several threads; passes of two at a time on a device would take the memory of both.
        self._turns = {teacher.device: threading.Lock() for teacher in self._teachers.values()}

    @property
    def fingerprint(self) -> str:
        """Return a digest of the images and of whether they are augmented."""
        return digest([self._images.fingerprint, self._augment])

    def __len__(self) -> int:
        return self._count

    def read(self, plan: BatchPlan, rows: Indices, device: torch.device) -> Batch:
        """Return the batch of these rows of a plan, on a device."""
        shown = self._pixels(self._needed(plan), plan.epoch, rows)
        images = resize_images(normalize(shown[self._images.size_px].to(device)), plan.image_px)
        targets: dict[str, Tensor] = {}
        for name in plan.group.teachers:
            teacher = self._teachers[name]
            with self._turns[teacher.device]:
                targets |= teacher.targets(shown[teacher.image_px], self._grid, device)
        return Batch(images, targets)

    def _needed(self, plan: BatchPlan) -> set[int]:
        return {self._images.size_px, *(self._teachers[name].image_px for name in plan.group.teachers)}

    def _pixels(self, sizes_px: Collection[int], epoch: int, rows: Indices) -> dict[int, Tensor]:
        """Return images (B, 3, px, px), uint8, at each size."""
        images = list(self._readers.map(partial(self._image, sizes_px, epoch), rows.tolist()))
        return {px: torch.from_numpy(np.stack([each[px] for each in images])).permute(0, 3, 1, 2) for px in sizes_px}

    def _image(self, sizes_px: Collection[int], epoch: int, row: int) -> dict[int, Pixels]:
        """Return an image, or the next one that can be decoded, at each size."""
        view = 1 + epoch if self._augment else 0
        for other in range(self._count):
            item = view * self._count + (row + other) % self._count
            try:
                return {px: sample.image for px, sample in self._images.read_sizes(item, sizes_px).items()}
            except CorruptImage as error:
                _LOG.warning("%s; the next image takes its place", error)
        raise CacheError("--data: no image can be decoded")


class _LiveTeacher:
    """One teacher on its device, with the statistics of its heads."""

    def __init__(self, spec: TeacherSpec, targets: Targets, device: torch.device) -> None:
        cached = targets.teachers[spec.name]
        if spec.fingerprint != cached.fingerprint:
            raise CacheError(f"teacher {spec.name}: its weights or its preprocessing are not those of the cache")
        self._name, self.device, self._precision = spec.name, device, cached.precision
        self._teacher: Teacher = spec.load().to(device)
        recorded = read_cache_set(targets.path).teachers[spec.name].manifest["activations"]
        if not same_activations(activation_fingerprint(self._teacher), recorded):
            raise CacheError(f"teacher {spec.name}: it computes other features now than for the cache")
        self.image_px = max(targets.image_px, spec.source_px)
        self._at_once = images_at_once(self._teacher, device, self.image_px)
        heads = {"summary": cached.summary, "spatial": cached.spatial}
        self._heads = {head: StandardizerOnDevice(s, device) for head, s in heads.items() if s is not None}

    def targets(self, images: Tensor, grid: int, device: torch.device) -> dict[str, Tensor]:
        """Return "teacher/head" -> standardized targets of images (B, 3, px, px), uint8, on a device."""
        run, tiles = partial(self._features, grid=grid), self._teacher.tiles
        parts = [in_passes(run, batch, self._at_once, tiles) for batch in torch.split(images, BATCH)]
        return {
            f"{self._name}/{head}": torch.cat([part[head] for part in parts]).to(device, non_blocking=True)
            for head in self._heads
        }

    @torch.inference_mode()
    def _features(self, images: Tensor, grid: int) -> dict[str, Tensor]:
        summary, spatial = run_teacher(self._teacher, images.to(self.device), self._precision)
        heads = {"spatial": to_grid(spatial, grid)} | ({} if summary is None else {"summary": summary})
        return {head: standardizer.apply(heads[head]) for head, standardizer in self._heads.items()}
