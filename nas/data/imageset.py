"""What a set of images is: square uint8 RGB samples by index, perhaps with labels and masks, and an identity."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Split = Literal["train", "val"]
Pixels = NDArray[np.uint8]

IGNORE_LABEL = 255  # a mask value that is no class: never scored
VAL_SHARE = 5  # one image in five is held out where a source has no split of its own
SAMPLED_BYTES = 65536


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
    """Images of one split. `read` is deterministic: the same index gives the same bytes, or CorruptImage."""

    @property
    def uri(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """16 hex digits: two sets with the same fingerprint hold the same samples."""

    @property
    def num_classes(self) -> int | None: ...

    @property
    def has_masks(self) -> bool: ...

    @property
    def mask_classes(self) -> int | None:
        """Largest mask value + 1, `IGNORE_LABEL` aside."""

    def __len__(self) -> int: ...

    def read(self, i: int) -> Sample: ...


def square(image: Image.Image, size_px: int) -> Pixels:
    """Central square of an image, resized with antialiasing, as (S, S, 3) RGB."""
    return np.asarray(image.convert("RGB").resize((size_px, size_px), Image.Resampling.BILINEAR, central_box(image)))


def square_mask(mask: Image.Image, size_px: int) -> Pixels:
    """Central square of a class mask, resized by nearest neighbour, as (S, S) class indices."""
    if mask.mode not in ("L", "P"):
        mask = mask.convert("L")
    return np.asarray(mask.resize((size_px, size_px), Image.Resampling.NEAREST, central_box(mask)), dtype=np.uint8)


def decode(source: Path | BinaryIO, name: str) -> Image.Image:
    """An image, all its pixels read; CorruptImage if they can't be."""
    try:
        image = Image.open(source)
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CorruptImage(f"--data: cannot decode image {name}: {error}") from error
    return image


def central_box(image: Image.Image) -> tuple[float, float, float, float]:
    """Box of the largest central square: left, upper, right, lower."""
    side = min(image.size)
    left, upper = (image.width - side) // 2, (image.height - side) // 2
    return left, upper, left + side, upper + side


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


def limited(names: list[str], count: int | None, seed: int) -> list[str]:
    """`count` of the names in an order that depends on the seed only; all of them, shuffled, if there are no more."""
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    return ranked[:count]
