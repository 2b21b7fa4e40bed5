"""Images by URI: `embedded`, `imagefolder:PATH`, `webdataset:PATTERN`, `cifar10`.

Labels and masks serve evaluation only; distillation never sees them.
"""

from __future__ import annotations

from pathlib import Path

from nas.data.cifar import open_cifar10
from nas.data.composites import Composites
from nas.data.folder import open_folder
from nas.data.imageset import IGNORE_LABEL, CorruptImage, DataError, ImageSet, Sample, Split
from nas.data.shards import open_shards

__all__ = ["FORMS", "IGNORE_LABEL", "CorruptImage", "DataError", "ImageSet", "Sample", "Split", "open_images"]

FORMS = ("embedded", "imagefolder:PATH", "webdataset:PATTERN", "webdataset:TRAIN::VAL", "cifar10")
EMBEDDED_COUNT: dict[Split, int] = {"train": 3000, "val": 600}  # composites where no count is asked for


def open_images(uri: str, split: Split, count: int | None, seed: int, size_px: int, cache_dir: Path) -> ImageSet:
    """The images of one split as `size_px` squares: at most `count`, chosen and ordered by the seed alone.

    `cache_dir` is where downloads go. DataError for an unknown URI, a missing folder or shard, or an empty split.
    """
    if count is not None and count < 1:
        raise DataError(f"--data: {split} image count {count} is not positive; allowed: 1 or more")
    if size_px < 1:
        raise DataError(f"--data: image size {size_px} px is not positive; allowed: 32 or more")
    form, _, argument = uri.partition(":")
    if uri == "embedded":
        return Composites(split, count or EMBEDDED_COUNT[split], seed, size_px)
    if uri == "cifar10":
        return open_cifar10(cache_dir, split, count, seed, size_px)
    if form == "imagefolder" and argument:
        return open_folder(argument, split, count, seed, size_px)
    if form == "webdataset" and argument:
        return open_shards(argument, split, count, seed, size_px)
    raise DataError(f"--data: unknown source '{uri}'; choices: {', '.join(FORMS)}")
