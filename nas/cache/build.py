"""The building of a teacher cache: read images, run teachers, standardise; memory stays at one batch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from nas.data import CorruptImage, DataError, ImageSet, Sample
from nas.cache.arrays import ArrayWriter
from nas.cache.standardise import Moments, Standardiser, compressed_dims, fit, spectrum
from nas.cache.targets import HEADS, save_standardiser, write_manifest
from nas.teachers.teacher import Teacher, TeacherSpec

Rows = dict[str, NDArray[Any]]  # array file -> rows

BATCH = 32
MOST_DIMS = {
    "summary": 128,
    "spatial": 64,
}  # a teacher's channels after PCA; the rest is mostly noise to a small student


@dataclass(frozen=True)
class Plan:
    """All that a cache's content depends on; `fingerprint` is its identity."""

    specs: tuple[TeacherSpec, ...]
    train: ImageSet
    val: ImageSet
    image_px: int
    grid: int
    fingerprint: str
    data_fingerprint: str


def build(folder: Path, plan: Plan, progress: Callable[[str, int, int], None], started: float) -> None:
    """Fill the empty `folder` with a whole cache, manifest last; `started` is the monotonic time the wait began."""
    teachers = [spec.load() for spec in plan.specs]
    skipped = []
    for split, images in (("train", plan.train), ("val", plan.val)):
        skipped += describe(folder, split, images, teachers, plan, progress)
    about = {}
    for done, teacher in enumerate(teachers):
        progress("standardise", done, len(teachers))
        kept = {f"{head}_kept": standardise(folder, teacher.name, head).kept for head in HEADS}
        about[teacher.name] = {"fingerprint": teacher.fingerprint, **kept}
    progress("standardise", len(teachers), len(teachers))
    content = {
        "fingerprint": plan.fingerprint,
        "data_fingerprint": plan.data_fingerprint,
        "data": plan.train.uri,
        "num_classes": plan.train.num_classes,
        "mask_classes": common_mask_classes(plan),
        "image_px": plan.image_px,
        "grid": plan.grid,
        "teachers": about,
        "skipped": skipped,
    }
    write_manifest(folder, {**content, "build_seconds": round(time.monotonic() - started, 2)})


def common_mask_classes(plan: Plan) -> int | None:
    """Mask classes of both splits together, None unless both have masks."""
    train, val = plan.train.mask_classes, plan.val.mask_classes
    return None if train is None or val is None else max(train, val)


def describe(
    folder: Path,
    split: str,
    images: ImageSet,
    teachers: list[Teacher],
    plan: Plan,
    progress: Callable[[str, int, int], None],
) -> list[str]:
    """Write one split's images, labels, masks and raw teacher features; returns what could not be decoded."""
    skipped: list[str] = []
    done = 0
    progress(f"teachers on {split} images", 0, len(images))
    with ExitStack() as stack:
        files = Files(folder, split, stack)
        for rows in in_order(partial(run_teachers, teachers=teachers, plan=plan), batches(images, skipped)):
            for name, values in rows.items():
                files.append(name, values)
            done += len(rows["images"])
            progress(f"teachers on {split} images", done + len(skipped), len(images))
    if not done:
        raise DataError(f"--data {images.uri}: none of the {len(images)} {split} images can be decoded")
    return skipped


def run_teachers(batch: list[Sample], teachers: list[Teacher], plan: Plan) -> Rows:
    """A batch's rows for every array file."""
    with torch.inference_mode():
        source = torch.from_numpy(np.stack([sample.image for sample in batch])).permute(0, 3, 1, 2)
        student = shrink(source, plan.image_px)
        rows: Rows = {"images": student.numpy(), **labels_and_masks(batch, plan.image_px)}
        for teacher in teachers:
            view = source if teacher.min_px > plan.image_px else student
            summary, spatial = teacher(view.float() / 255)
            rows[f"{teacher.name}-summary-raw"] = summary.numpy()
            rows[f"{teacher.name}-spatial-raw"] = to_grid(spatial, plan.grid).contiguous().numpy()
    return rows


def in_order(work: Callable[[list[Sample]], Rows], batches: Iterable[list[Sample]]) -> Iterator[Rows]:
    """Results of `work` in the batches' order, torch's thread count of them at once, each on one thread.

    Batches beside each other, not threads inside each operator: on a busy machine operators that wait for a descheduled
    thread took 158 ms an image, this way 23 to 41 (one run each, load not controlled). Features then don't depend on
    the thread count either.
    """
    threads = torch.get_num_threads()
    running: deque[Future[Rows]] = deque()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for batch in batches:
                running.append(pool.submit(work, batch))
                if len(running) > threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(threads)


class Files:
    """Array files of a split, opened when their first rows come."""

    def __init__(self, folder: Path, split: str, stack: ExitStack) -> None:
        self.folder, self.split, self.stack = folder, split, stack
        self.writers: dict[str, ArrayWriter] = {}

    def append(self, name: str, rows: NDArray[Any]) -> None:
        if name not in self.writers:
            writer = ArrayWriter(self.folder / f"{self.split}-{name}.npy", rows.dtype, rows.shape[1:])
            self.writers[name] = self.stack.enter_context(writer)
        self.writers[name].append(rows)


def batches(images: ImageSet, skipped: list[str]) -> Iterator[list[Sample]]:
    """Samples in order, in lists of up to BATCH; messages about undecodable ones go to `skipped`."""
    batch: list[Sample] = []
    for i in range(len(images)):
        try:
            batch.append(images.read(i))
        except CorruptImage as error:
            skipped.append(str(error))
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def labels_and_masks(batch: list[Sample], image_px: int) -> Rows:
    """Labels and masks, where the set has them."""
    labels = [sample.label for sample in batch if sample.label is not None]
    masks = [sample.mask for sample in batch if sample.mask is not None]
    rows: Rows = {"labels": np.array(labels, dtype=np.int64)} if labels else {}
    if masks:
        stacked = torch.from_numpy(np.stack(masks))[:, None]
        rows["masks"] = F.interpolate(stacked, (image_px, image_px), mode="nearest-exact")[:, 0].numpy()
    return rows


def shrink(source: Tensor, image_px: int) -> Tensor:
    """uint8 (B, 3, S, S) to the student's size, antialiased."""
    if source.shape[-1] == image_px:
        return source.contiguous()
    resized = F.interpolate(source.float(), (image_px, image_px), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8).contiguous()


def to_grid(spatial: Tensor, grid: int) -> Tensor:
    """Maps (B, C, h, w) as (B, C, grid, grid): averaged over areas when larger, bilinear when smaller."""
    if spatial.shape[-1] >= grid:
        return F.adaptive_avg_pool2d(spatial, grid)
    return F.interpolate(spatial, (grid, grid), mode="bilinear")


def standardise(folder: Path, teacher: str, head: str) -> Standardiser:
    """Replace a head's raw features by standardised ones, fitted on the train split."""
    raw = {split: folder / f"{split}-{teacher}-{head}-raw.npy" for split in ("train", "val")}
    features = np.load(raw["train"], mmap_mode="r")
    moments = Moments(features.shape[1])
    for rows in chunks(features):
        moments.update(rows.reshape(-1, rows.shape[-1]))
    principal = spectrum(moments)
    fitted = fit(principal, compressed_dims(principal.values, MOST_DIMS[head]))
    save_standardiser(folder, teacher, head, fitted)
    for split, path in raw.items():
        features = np.load(path, mmap_mode="r")
        row_shape = (fitted.dims, *features.shape[2:])
        with ArrayWriter(folder / f"{split}-{teacher}-{head}.npy", np.float16, row_shape) as writer:
            for rows in chunks(features):
                writer.append(np.moveaxis(fitted.apply(rows), -1, 1))
        path.unlink()
    return fitted


def chunks(features: NDArray[Any], size: int = 256) -> Iterator[NDArray[Any]]:
    """Up to `size` images' features at a time in float64, channels last."""
    for start in range(0, len(features), size):
        yield np.moveaxis(np.asarray(features[start : start + size], dtype=np.float64), 1, -1)
