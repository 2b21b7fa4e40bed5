"""Open images by URI: `builtin`, `imagefolder:PATH`, `webdataset:PATTERN`, `cifar10`.

Labels and masks serve evaluation only; distillation never sees them.
"""

from __future__ import annotations

from pathlib import Path

from nas.data.augment import Augmentation, AugmentedSet
from nas.data.cifar import Cifar10, open_cifar10
from nas.data.composites import Composites, GlyphPoses
from nas.data.dataset import IGNORE_LABEL, CorruptImage, DataError, ImageSet, Progress, Sample, Split
from nas.data.folder import ImageFolder, image_root, open_folder
from nas.data.webdataset import Shards, absolute_pattern, check_pattern, open_shards

__all__ = [
    "FORMS",
    "IGNORE_LABEL",
    "Augmentation",
    "AugmentedSet",
    "CorruptImage",
    "DataError",
    "ImageSet",
    "Sample",
    "Split",
    "absolute_uri",
    "check_uri",
    "open_images",
    "open_poses",
]

FORMS = (
    "builtin",
    "imagefolder:PATH",
    "webdataset:PATTERN",
    "webdataset:TRAIN::VAL",
    "webdataset:PATTERN#ignore=11",
    "cifar10",
)
BUILTIN_COUNT: dict[Split, int] = {"train": 3000, "val": 600}  # composites where no count is requested


def open_images(
    uri: str,
    split: Split,
    count: int | None,
    seed: int,
    size_px: int,
    cache_dir: Path,
    views: int = 1,
    progress: Progress = lambda stage, done, total: None,
) -> ImageSet:
    """Open one split's images as `size_px` squares: at most `count`, chosen and ordered by the seed alone.

    Args:
        uri: The source, in one of `FORMS`.
        split: The images' side of the split.
        count: Number of images before augmentation; None takes all.
        seed: Seed of the choice and the order.
        size_px: Side of the squares.
        cache_dir: Folder of downloads.
        views: Number of versions of each train image, see `AugmentedSet`.
        progress: Called with (stage, done, total) during downloads.

    Raises:
        DataError: The URI is unknown, a folder or shard is missing, or the split is empty.
    """
    if count is not None and count < 1:
        raise DataError(f"--data: {split} image count {count} is not positive; allowed: 1 or more")
    if size_px < 1:
        raise DataError(f"--data: image size {size_px} px is not positive; allowed: 32 or more")
    if views < 1 or (views > 1 and split == "val"):
        raise DataError(f"--views: {views} of each {split} image; allowed: 1 or more of train images, 1 of val images")
    plain = open_unaugmented(uri, split, count, seed, size_px, cache_dir, progress)
    if views == 1:
        return plain
    return AugmentedSet(plain, views, seed)


def open_unaugmented(
    uri: str, split: Split, count: int | None, seed: int, size_px: int, cache_dir: Path, progress: Progress
) -> Composites | Cifar10 | ImageFolder | Shards:
    """Open the images without augmentation."""
    check_uri(uri)
    form, _, argument = uri.partition(":")
    if uri == "builtin":
        return Composites(split, count or BUILTIN_COUNT[split], seed, size_px)
    if uri == "cifar10":
        return open_cifar10(cache_dir, split, count, seed, size_px)
    if form == "imagefolder":
        return open_folder(argument, split, count, seed, size_px)
    return open_shards(argument, split, count, seed, size_px, cache_dir, progress)


def check_uri(uri: str) -> None:
    """Raise DataError for an unknown source, and for a folder or a local shard that is missing. Nothing is opened."""
    form, _, argument = uri.partition(":")
    if form == "imagefolder" and argument:
        image_root(argument)
    elif form == "webdataset" and argument:
        check_pattern(argument)
    elif uri not in ("builtin", "cifar10"):
        raise DataError(f"--data: unknown source {uri!r}; choices: {', '.join(FORMS)}")


def absolute_uri(uri: str) -> str:
    """Return the URI of the same images that a process in another folder can open."""
    form, _, argument = uri.partition(":")
    if form == "imagefolder":
        return f"imagefolder:{Path(argument).expanduser().absolute()}"
    return f"webdataset:{absolute_pattern(argument)}" if form == "webdataset" else uri


def open_poses(uri: str, most: int, size_px: int) -> GlyphPoses | None:
    """Open the pairs of images of the built-in data that show one glyph in two poses; None of other data.

    Args:
        uri: The source, in one of `FORMS`.
        most: Largest number of images.
        size_px: Side of the squares.
    """
    return GlyphPoses(most, size_px) if uri == "builtin" else None
