"""Build the images' entry of a cache: pixels, labels and masks at the student's size. All teachers share it.

The batches and the thread pool at the end of this module also serve `teacher_features`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from nas.cache.entry import FORMAT, SHARD_ITEMS, CacheEntry, Done, Record, Shard, shards_of
from nas.cache.shards import Rows, ShardWriter
from nas.data import CorruptImage, DataError, ImageSet, Sample, Split, open_images
from nas.data.dataset import Progress, digest
from nas.numbers import plural

SPLITS: tuple[Split, ...] = ("train", "val")


@dataclass(frozen=True)
class ImageSource:
    """The images of a cache, which open at any size.

    Args:
        uri: The data, as `nas.data.open_images` takes it.
        counts: Number of images by split, before augmentation.
        seed: Seed of the choice and the order.
        views: Stored augmentations of each train image.
        root: Folder of the cache, also of downloads.
        progress: Called with (stage, done, total) during downloads.
    """

    uri: str
    counts: dict[Split, int]
    seed: int
    views: int
    root: Path
    progress: Progress = lambda stage, done, total: None
    _opened: dict[Split, ImageSet] = field(default_factory=dict, init=False, repr=False, compare=False)

    def open(self, split: Split, size_px: int) -> ImageSet:
        """Open a split's images as squares of `size_px`; DataError if there are none. The source is searched once."""
        if split not in self._opened:
            views, count = self.views if split == "train" else 1, self.counts[split]
            opened = open_images(self.uri, split, count, self.seed, size_px, self.root, views, self.progress)
            self._opened[split] = opened
        return self._opened[split].at_size(size_px)


class ImageCacheBuilder:
    """Builds the images' entry. `sets` are the opened images by split, `entry` is the entry, built or not."""

    def __init__(self, source: ImageSource, image_px: int) -> None:
        self.source, self.image_px = source, image_px
        self.sets: dict[Split, ImageSet] = {split: source.open(split, image_px) for split in SPLITS}
        self.fingerprint = digest([FORMAT, *(images.fingerprint for images in self.sets.values()), image_px])
        self.entry = CacheEntry.of(source.root, "images", self.fingerprint)

    def shards_of(self, split: Split) -> list[Shard]:
        """Return the shards of one split."""
        return shards_of(split, len(self.sets[split]))

    @property
    def shards(self) -> list[Shard]:
        """Return the shards of both splits."""
        return [shard for split in self.sets for shard in self.shards_of(split)]

    def stage(self, split: Split) -> str:
        """Return the name of the stage of a build in which the images of a split are read."""
        return f"{split} images"

    def build(self, progress: Progress) -> None:
        """Build the entry, sharing the work with other processes."""
        self.entry.open()
        for split, images in self.sets.items():
            done = stage_progress(progress, self.stage(split), len(images))
            self.entry.fill(self.shards_of(split), self.entry.written, self.write_shard, done)
        self.entry.finish(self.shards, [], self.describe)

    def account(self) -> list[str]:
        """Return a table, for the user, of the built entry's images: asked for, found, used, left out and why.

        It is empty where nothing was left out of data that are not the user's own.
        """
        columns: list[tuple[int, ...]] = []
        notes: dict[str, None] = {}
        for split, images in self.sets.items():
            records = [self.entry.manifest["shards"][shard.name] for shard in self.shards_of(split)]
            skipped = [message for record in records for _, message in record["skipped"]]
            views = self.source.views if split == "train" else 1
            undecoded = len(skipped) // views
            columns.append((self.source.counts[split], images.available, len(images) // views - undecoded, undecoded))
            notes |= dict.fromkeys((*images.notes, *(message.removeprefix("--data: ") for message in skipped[:1])))
        few = any(found < asked for asked, found, *_ in columns)
        if not (few or notes or ":" in self.source.uri):
            return []
        uri = self.sets["train"].uri
        rows = zip(("asked for", "found", "used", "cannot be decoded"), *columns, strict=True)
        lines = [f"images of {uri}", f"  {'':<18}{'train':>13}{'held out':>13}"]
        lines += [f"  {name:<18}{train:>13,}{val:>13,}" for name, train, val in rows]
        return [*lines, *["  fewer were found than asked for"] * few, *(f"  {note}" for note in notes)]

    def write_shard(self, shard: Shard, done: Done) -> None:
        """Write a shard's arrays and its record, which lists the images that cannot be decoded."""
        began = time.perf_counter()
        items = range(shard.start, shard.stop)
        skipped: list[tuple[int, str]] = []
        with ShardWriter(self.entry.folder, shard.name) as writer:
            results = map_in_order(partial(read_rows, self.sets[shard.split].read), batches(items))
            for batch, (rows, corrupt) in zip(batches(items), results, strict=True):
                skipped += corrupt
                writer.append(rows)
                done(batch[-1] + 1 - shard.start)
        seconds = time.perf_counter() - began
        self.entry.record(shard, writer.rows, writer.paths, skipped=skipped, seconds=seconds)

    def describe(self, records: dict[str, Record]) -> Record:
        """Return the manifest's content apart from the shards.

        Raises:
            DataError: No image of a split can be decoded.
        """
        for split, images in self.sets.items():
            if not sum(record["rows"] for name, record in records.items() if name.startswith(f"{split}-")):
                raise DataError(f"--data {images.uri}: of {plural(len(images), f'{split} image')}, none can be decoded")
        train, val = self.sets.values()
        masks = [images.mask_classes for images in (train, val) if images.mask_classes is not None]
        return {
            "data": train.uri,
            "fingerprint": self.fingerprint,
            "image_px": self.image_px,
            "num_classes": train.num_classes,
            "class_names": train.class_names,
            "mask_classes": max(masks) if len(masks) == 2 else None,
            "seconds": round(sum(record["seconds"] for record in records.values()), 3),
        }


def read_rows(read: Callable[[int], Sample], indices: Sequence[int]) -> tuple[Rows, list[tuple[int, str]]]:
    """Read images (N, 3, S, S), with labels and masks if they have them.

    Returns:
        The rows by array, and the index and error of each image that cannot be decoded.
    """
    samples: list[Sample] = []
    corrupt = []
    for i in indices:
        try:
            samples.append(read(i))
        except CorruptImage as error:
            corrupt.append((i, str(error)))
    if not samples:
        return {}, corrupt
    rows: Rows = {"images": np.stack([sample.image for sample in samples]).transpose(0, 3, 1, 2)}
    if samples[0].label is not None:
        rows["labels"] = np.array([sample.label for sample in samples], dtype=np.int64)
    if samples[0].mask is not None:
        rows["masks"] = np.stack([sample.mask for sample in samples if sample.mask is not None])
    return rows, corrupt


def decodable_items(shard: Shard, record: Record) -> list[int]:
    """Return the items of a shard that could be decoded, in the order of its rows."""
    corrupt = {i for i, _ in record["skipped"]}
    return [i for i in range(shard.start, shard.stop) if i not in corrupt]


def stage_progress(progress: Progress, stage: str, total: int) -> Done:
    """Return a function that reports the done items of one stage to `progress`."""
    return lambda done: progress(stage, done, total)


BATCH = 32

Item = TypeVar("Item")
Result = TypeVar("Result")


def batches(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Yield up to BATCH items at a time."""
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


def shard_threads() -> int:
    """Return how many threads work on a shard at most: a batch each."""
    return min(torch.get_num_threads(), SHARD_ITEMS // BATCH)


def map_in_order(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield the results of `work` in the items' order. As many calls run in parallel as torch has threads.

    Each call uses one thread. This is faster than threads inside each operator, which wait for each other: on a busy
    machine these took 158 ms an image, parallel calls 23 to 41 (one run each, load not controlled). It also makes
    features independent of the thread count.
    """
    threads = torch.get_num_threads()
    running: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for item in items:
                running.append(pool.submit(work, item))
                if len(running) > threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(threads)
