"""`webdataset:PATTERN`: images in tar shards, on this machine or behind HTTP.

Shards come in an order that the seed shuffles, one at a time, only as many as the asked for images need: so shards
should be mixed, as writers of WebDatasets do. Patterns: ``train-{0000..0099}.tar``, ``train-*.tar`` (local only),
``https://host/{00..99}.tar``; ``TRAIN::VAL`` gives the splits a pattern of their own; ``...#ignore=11`` or
``#ignore=0,255`` makes mask values void.

A ``classes.json`` beside the (training) shards, a list of strings, names the labels' classes; where images have masks
but no labels, it names the mask values, and those beyond are void.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from math import ceil
from pathlib import Path

import numpy as np
from PIL import Image

from nas.data.dataset import (
    IGNORE_LABEL,
    CorruptImage,
    DataError,
    Pixels,
    Progress,
    Sample,
    Split,
    digest,
    held_out,
    identities,
    shuffled,
    spread,
)
from nas.data.download import fetch, is_remote, public
from nas.data.names import count_classes, read_names, sibling
from nas.data.patterns import expand, parse_ignored, sources
from nas.data.pixels import decode, decode_mask, square, square_mask
from nas.data.tars import IMAGE_FIELDS, TarSample, read_index

MOST_MASKS = 1000  # masks read to count their classes; a larger set is sampled evenly


@dataclass(frozen=True)
class Shards:
    """`samples` of the shards at `paths`. Labels and masks count only where every sample has one."""

    samples: tuple[TarSample, ...]
    paths: tuple[Path, ...]
    size_px: int
    uri: str
    num_classes: int | None
    names: tuple[str, ...] | None
    ignored: tuple[int, ...]

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return None if self.num_classes is None else self.names

    @cached_property
    def has_masks(self) -> bool:
        return all(sample.mask for sample in self.samples)

    @cached_property
    def mask_classes(self) -> int | None:
        if not self.has_masks:
            return None
        if self.names and self.num_classes is None:
            return len(self.names)
        return 1 + max(self.largest(self.samples[i]) for i in spread(len(self), MOST_MASKS))

    def largest(self, sample: TarSample) -> int:
        """Largest class in a whole mask; 0 where it cannot be read."""
        try:
            mask = self.voided(np.asarray(mask_of(sample)))
        except CorruptImage:
            return 0
        return int(mask[mask != IGNORE_LABEL].max(initial=0))

    def voided(self, mask: Pixels) -> Pixels:
        """The mask with ignored values as IGNORE_LABEL."""
        return np.where(np.isin(mask, self.ignored), np.uint8(IGNORE_LABEL), mask)

    @cached_property
    def fingerprint(self) -> str:
        keys = [sample.key for sample in self.samples]
        meaning = [self.num_classes, self.names, self.ignored]
        return digest(["webdataset", 2, self.size_px, keys, meaning, identities(self.paths)])

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, i: int) -> Sample:
        sample = self.samples[i]
        image = decode(io.BytesIO(sample.image.read()), sample.key)
        mask = self.voided(square_mask(mask_of(sample), self.size_px)) if self.has_masks else None
        return Sample(square(image, self.size_px), None if self.num_classes is None else sample.label, mask)


def open_shards(
    pattern: str, split: Split, count: int | None, seed: int, size_px: int, cache_dir: Path, progress: Progress
) -> Shards:
    """Samples of the shards of a pattern; remote ones are kept in `cache_dir`/shards.

    With a single pattern the hash of a key decides on the split. DataError where a shard is missing, unreadable, or
    the split is empty.
    """
    bare, _, ignored = pattern.partition("#ignore=")
    train, separated, val = bare.partition("::")
    own = val if separated and split == "val" else train
    shelf = cache_dir / "shards"
    names = read_names(sibling(expand(train)[0]), shelf)
    taken = Taken(split, bool(separated), seed, count, shelf)
    taken.collect(shuffled(sources(own), seed, lambda source: public(source).rpartition("/")[2]), progress)
    if not taken.samples:
        raise DataError(f"--data webdataset: no {split} images in '{own}' ({taken.seen} in all; fields {IMAGE_FIELDS})")
    chosen = shuffled(taken.samples[:count], seed, key_of)
    for what in ("label", "mask"):
        without = next((sample.key for sample in chosen if getattr(sample, what) is None), None)
        if without and any(getattr(sample, what) is not None for sample in chosen):
            warnings.warn(f"--data webdataset: {without} has no {what}: the others' are not used", stacklevel=2)
    classes, void = count_classes(taken.samples, names), parse_ignored(ignored)
    uri = f"webdataset:{'::'.join(public(part) for part in pattern.split('::'))}"  # manifests and reports show it
    return Shards(tuple(chosen), tuple(taken.paths), size_px, uri, classes, names, void)


class Taken:
    """Samples of one split, shard by shard, until there are `count`; remote shards come to `shelf`."""

    def __init__(self, split: Split, whole: bool, seed: int, count: int | None, shelf: Path) -> None:
        self.split, self.whole, self.seed, self.count, self.shelf = split, whole, seed, count, shelf
        self.samples: list[TarSample] = []
        self.paths: list[Path] = []
        self.seen = 0  # samples of both splits
        self.fetched = 0  # bytes

    def collect(self, shards: list[str], progress: Progress) -> None:
        """Reads the indices of as many of the shards as it takes."""
        stage = f"{self.split} shards, MiB"
        for number, shard in enumerate(shards):
            name, path = public(shard), Path(shard)
            if is_remote(shard):
                path = self.fetch(shard, self.expected(len(shards) - number), partial(progress, stage))
            index = read_index(path, name)
            mine = [sample for sample in index if self.whole or held_out(sample.key) == (self.split == "val")]
            self.samples += shuffled(mine, self.seed, key_of)
            self.paths.append(path)
            self.seen += len(index)
            if self.count and len(self.samples) >= self.count:
                break
        if self.fetched:
            progress(stage, self.fetched >> 20, self.fetched >> 20)

    def fetch(self, url: str, expected: int, progress: Callable[[int, int], None]) -> Path:
        """One remote shard; progress in MiB as if `expected` shards of its size were to come, it included."""

        def report(here: int, total: int) -> None:
            progress((self.fetched + here) >> 20, (self.fetched + expected * max(here, total)) >> 20)

        path = fetch(url, self.shelf, partial(read_index, name=public(url)), report)
        self.fetched += path.stat().st_size
        return path

    def expected(self, left: int) -> int:
        """How many of the shards that are left it takes, if they are like those before."""
        if self.count is None:
            return left
        if not self.samples:
            return 1
        return min(left, ceil((self.count - len(self.samples)) * len(self.paths) / len(self.samples)))


def key_of(sample: TarSample) -> str:
    """What an order of samples follows."""
    return sample.key


def mask_of(sample: TarSample) -> Image.Image:
    """A sample's whole mask; CorruptImage if it cannot be decoded."""
    return decode_mask(io.BytesIO(sample.mask.read() if sample.mask else b""), sample.key)
