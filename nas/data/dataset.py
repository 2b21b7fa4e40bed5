"""What a set of images is: square uint8 RGB samples by index, perhaps with labels and masks, and an identity."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "val"]
Pixels = NDArray[np.uint8]
Progress = Callable[[str, int, int], None]  # stage, done, total
T = TypeVar("T")

IGNORE_LABEL = 255  # a mask value that is no class: never scored
VAL_SHARE = 5  # one image in five is held out where a source has no split of its own
SAMPLED_BYTES = 65536
MOST_HASHED = 4096  # files whose content goes into a set's identity: a larger set is not read through to be opened


class DataError(ValueError):
    """Images that cannot be had. One line that names the field, the value and what is allowed."""


class CorruptImage(DataError):
    """One image that cannot be decoded, by name: whoever reads a set skips and counts it."""


class Sample(NamedTuple):
    """image (S, S, 3) RGB; label and mask (S, S) are None where the set has none."""

    image: Pixels
    label: int | None
    mask: Pixels | None


class ImageSet(Protocol):
    """Images of one split. `read` is deterministic: the same index gives the same bytes, or CorruptImage.

    Sets that differ in `size_px` alone show the same scenes, so students and teachers can see them at their own sizes.
    """

    @property
    def uri(self) -> str: ...

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
    def has_masks(self) -> bool: ...

    @property
    def mask_classes(self) -> int | None:
        """Mask values below it are classes, all others void; None where the images have no masks."""

    def __len__(self) -> int: ...

    def read(self, i: int) -> Sample: ...


def held_out(name: str) -> bool:
    """Whether an image belongs to the validation split: by a hash of its name, so it never changes sides."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % VAL_SHARE == 0


def digest(parts: Iterable[object]) -> str:
    """16 hex digits over the parts' representations."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(f"{part!r}\n".encode())
    return hashed.hexdigest()[:16]


def file_identity(path: Path) -> str:
    """Hash of a file's size, first and last 64 KiB: compressed images that differ anywhere differ there or in size."""
    size = path.stat().st_size
    with path.open("rb") as file:
        content = file.read(SAMPLED_BYTES)
        if size > SAMPLED_BYTES:
            file.seek(-min(SAMPLED_BYTES, size - SAMPLED_BYTES), 2)
            content += file.read()
    return hashlib.sha256(str(size).encode() + content).hexdigest()


def identities(paths: Sequence[Path]) -> list[str]:
    """What tells files apart from others of the same names: content, or the size alone for some of very many."""
    hashed = set(spread(len(paths), MOST_HASHED))
    found = []
    for i, path in enumerate(paths):
        try:
            found.append(file_identity(path) if i in hashed else str(path.stat().st_size))
        except OSError:  # reading it will say so, by name
            found.append("unreadable")
    return found


def spread(total: int, most: int) -> list[int]:
    """Indices below `total`: all of them, or `most` spread evenly where there are more."""
    return list(range(total)) if total <= most else [i * total // most for i in range(most)]


def shuffled(items: Iterable[T], seed: int, name: Callable[[T], str]) -> list[T]:
    """Items in an order that depends on the seed and their names only, so that a prefix of it stays when some go."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{seed}/{name(item)}".encode()).digest())
