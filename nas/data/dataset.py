"""Define a set of images: square uint8 RGB samples by index, optional labels and masks, and a fingerprint.

Decoders read downloaded files and raise errors of many types; `naming_errors` turns them into CorruptImage. Errors of
the operating system are none of them: `read_file` raises DataUnavailable.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from nas.cli import OperationFailed
from nas.numbers import plural

Split = Literal["train", "val"]
Pixels = NDArray[np.uint8]
Progress = Callable[[str, int, int], None]  # stage, done, total
T = TypeVar("T")

BACKGROUND = "white"  # of transparent images
IGNORE_LABEL = 255  # mask value of void pixels, which are never scored
VAL_SHARE = 5  # one image in five is held out where a source has no splits
UNSCALED_MODES = ("I", "F")  # of Pillow: 32-bit integers and floats, which it would clip to 0..255
SAMPLED_BYTES = 65536
_FILES_AT_A_TIME, _FILES_A_TASK = 32, 256  # whose identities are read
RETRY_S = (0.2, 1.0, 5.0)  # waits before a read that failed is tried again: a network disk can be away for a moment
PERMANENT = (FileNotFoundError, PermissionError)  # errors for which waiting does not help
MAX_HASHED_FILES = 4096  # files whose content is part of a fingerprint; of a larger set, only some are read

Box = tuple[float, float, float, float]  # left, upper, right, lower in pixels


def printable(text: str) -> str:
    """Return a text with a space in place of each control character: names of files may have any."""
    return "".join(c if c.isprintable() else " " for c in text)


class DataError(ValueError):
    """Images cannot be read. The message is one line with the field, its value and the allowed values."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class DataUnavailable(DataError, OperationFailed):
    """Images cannot be fetched or stored now, because a server, a network or a disk fails."""


class CorruptImage(DataError):
    """One image cannot be decoded. The message names it; readers of a set skip and count it."""


class Sample(NamedTuple):
    """An image (S, S, 3) RGB, its label and its mask (S, S); the latter two are None where the set has none."""

    image: Pixels
    label: int | None
    mask: Pixels | None


class ImageSet(Protocol):
    """Images of one split. `read` is deterministic: the same index gives the same bytes, or CorruptImage.

    It raises DataUnavailable where the system cannot read a file.

    Sets that differ in `size_px` alone show the same scenes, so students and teachers can see them at their own sizes.
    """

    @property
    def uri(self) -> str:
        """The source of the images."""

    @property
    def fingerprint(self) -> str:
        """16 hex digits: two sets with the same fingerprint hold the same samples."""

    @property
    def size_px(self) -> int:
        """Side of every image and mask."""

    @property
    def num_classes(self) -> int | None:
        """Labels are below it; None where the images have no labels."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """A name for every label, in the labels' order, where they are known."""

    @property
    def has_masks(self) -> bool:
        """Whether every image has a mask."""

    @property
    def mask_classes(self) -> int | None:
        """Mask values below it are classes, all others void; None where the images have no masks."""

    @property
    def available(self) -> int:
        """Number of images on this side of the split, before a count is applied, as far as the source was read."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user: which files were left out and why, which labels or masks are not used."""

    def at_size(self, size_px: int) -> ImageSet:
        """Return the set of the same scenes as squares of another size. The source is not searched again."""

    def __len__(self) -> int: ...

    def read(self, i: int) -> Sample:
        """Read image `i`, 0 to len - 1."""

    def read_sizes(self, i: int, sizes_px: Collection[int]) -> dict[int, Sample]:
        """Read image `i` once, and return what the sets of these sizes read."""


def held_out(name: str) -> bool:
    """Tell whether an image belongs to the validation split, by a hash of its name: it never changes sides."""
    return int(hashlib.sha256(name_bytes(name)).hexdigest()[:8], 16) % VAL_SHARE == 0


def name_bytes(name: str) -> bytes:
    """Return a file's name as the bytes on disk or in a tar; they may be Latin-1 in place of UTF-8."""
    return name.encode(errors="surrogateescape")


def digest(parts: Iterable[object]) -> str:
    """Return 16 hex digits over the parts' representations."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(f"{part!r}\n".encode())
    return hashed.hexdigest()[:16]


def file_identity(path: Path) -> str:
    """Hash a file's size, first and last 64 KiB: compressed images that differ anywhere differ there or in size."""
    size = path.stat().st_size
    with path.open("rb") as file:
        content = file.read(SAMPLED_BYTES)
        if size > SAMPLED_BYTES:
            file.seek(-min(SAMPLED_BYTES, size - SAMPLED_BYTES), 2)
            content += file.read()
    return hashlib.sha256(str(size).encode() + content).hexdigest()


def identities(paths: Sequence[Path]) -> list[str]:
    """Return an identity of every file; above MAX_HASHED_FILES, most identities are the file's size alone.

    Many files are asked for at a time: each answer of a network disk takes about a millisecond.

    Raises:
        DataUnavailable: The system cannot read a file that is there: its identity would be that of other data.
    """
    hashed = set(evenly_spaced(len(paths), MAX_HASHED_FILES))

    def some(start: int) -> list[str]:
        stop = min(start + _FILES_A_TASK, len(paths))
        return [_identity(paths[i], file_identity if i in hashed else _size) for i in range(start, stop)]

    with ThreadPoolExecutor(_FILES_AT_A_TIME) as pool:
        return [identity for found in pool.map(some, range(0, len(paths), _FILES_A_TASK)) for identity in found]


def _size(path: Path) -> str:
    return str(path.stat().st_size)


def _identity(path: Path, identify: Callable[[Path], str]) -> str:
    try:
        return with_retries(path, partial(identify, path))
    except DataUnavailable as error:
        if not isinstance(error.__cause__, PERMANENT):
            raise
        return "unreadable"  # reading the image will raise the error, with its name


_ONE = {  # of reasons whose singular differs in more than the first noun
    "links and devices": "link or device",
    "links to folders that contain them": "link to a folder that contains it",
    "links to missing files": "link to a missing file",
    "pipes, sockets and devices": "pipe, socket or device",
}


def left_out_note(reason: str, names: Sequence[str]) -> str:
    """Return a line for the user about files that are left out for the same reason.

    Args:
        reason: What they are, in the plural, with the noun first.
        names: Their names, one or more.
    """
    noun, _, rest = reason.partition(" ")
    one = _ONE.get(reason) or f"{noun.removesuffix('s')} {rest}"
    return printable(f"left out: {plural(len(names), one, reason)}, as '{names[0]}'")


def evenly_spaced(total: int, most: int) -> list[int]:
    """Return the indices below `total`: all of them, or `most` evenly spaced ones if there are more."""
    return list(range(total)) if total <= most else [i * total // most for i in range(most)]


def shuffled(items: Iterable[T], seed: int, name: Callable[[T], str]) -> list[T]:
    """Order items by the seed and their names alone; removing some leaves the order of the others."""
    return sorted(items, key=lambda item: hashlib.sha256(name_bytes(f"{seed}/{name(item)}")).digest())


def read_file(path: Path, offset: int = 0, size: int = -1) -> bytes:
    """Return the bytes of a file.

    Args:
        path: The file.
        offset: First byte.
        size: Number of bytes; -1 for all.

    Raises:
        DataUnavailable: The system cannot read it, nor after the waits RETRY_S if the file may come back.
    """
    return with_retries(path, partial(_read, path, offset, size))


def _read(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def with_retries(path: Path, work: Callable[[], T]) -> T:
    """Return the result of `work` on a file or folder; DataUnavailable if the system cannot read it, nor later."""
    waits_s = iter(RETRY_S)
    while True:
        try:
            return work()
        except OSError as error:
            wait_s = None if isinstance(error, PERMANENT) else next(waits_s, None)
            if wait_s is None:
                raise DataUnavailable(f"--data: cannot read '{path}': {error.strerror or error}") from error
        time.sleep(wait_s)


def decode(source: BinaryIO, name: str) -> Image.Image:
    """Decode an RGB image as it is shown: all its pixels, turned as its EXIF tag says, transparent ones on white.

    Raises:
        CorruptImage: That fails, or nothing says which numbers of its channels are black and white.
    """
    with naming_errors(name), Image.open(source) as image:
        image.load()
        with suppress(Exception):  # of many types: the pixels of an image with damaged metadata are read all the same
            ImageOps.exif_transpose(image, in_place=True)
        if image.mode in UNSCALED_MODES:
            raise ValueError(f"mode {image.mode} of {image.format} has no known range; allowed: 8 or 16 bits a channel")
        if image.mode.startswith("I;16"):  # Pillow would clip the 16 bits, not scale them
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        if image.has_transparency_data:  # without a background, the hidden colors of transparent pixels would show
            white = Image.new("RGBA", image.size, BACKGROUND)
            return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
        return image.convert("RGB")


def decode_mask(source: BinaryIO, name: str) -> Image.Image:
    """Decode a mask of class indices, one channel of 8 bits; CorruptImage if it is none."""
    with naming_errors(f"{name} (mask)"), Image.open(source) as mask:
        mask.load()
        values = np.asarray(mask)
        if values.ndim != 2 or values.min() < 0 or values.max() > 255:
            raise ValueError(f"mode {mask.mode} with values up to {values.max()}; allowed: one channel, 0 to 255")
        return Image.fromarray(values.astype(np.uint8))


@contextmanager
def naming_errors(name: str) -> Iterator[None]:
    """Raise CorruptImage with the image's name for every error of a decoder: there are many, with no common base."""
    try:
        yield
    except UnidentifiedImageError:  # its message holds a memory address
        raise CorruptImage(f"--data: cannot decode image {name}: Pillow does not recognize it as an image") from None
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CorruptImage(f"--data: cannot decode image {name}: {reason}") from error


def square(image: Image.Image, size_px: int) -> Pixels:
    """Return the central square of an RGB image, resized with antialiasing, as (S, S, 3)."""
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BILINEAR, central_box(image)))


def square_mask(mask: Image.Image, size_px: int) -> Pixels:
    """Return the central square of a class mask, resized by nearest neighbor, as (S, S) class indices."""
    return np.asarray(mask.resize((size_px, size_px), Image.Resampling.NEAREST, central_box(mask)))


def central_box(image: Image.Image) -> Box:
    """Return the box of the largest central square."""
    side = min(image.size)
    left, upper = (image.width - side) // 2, (image.height - side) // 2
    return left, upper, left + side, upper + side
