"""From encoded bytes to the squares that sets are made of. Decoders meet what a user downloaded: nothing is trusted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from nas.data.dataset import CorruptImage, Pixels

Box = tuple[float, float, float, float]  # left, upper, right, lower in pixels


def decode(source: Path | BinaryIO, name: str) -> Image.Image:
    """An RGB image, all its pixels read; CorruptImage if they can't be."""
    with named(name), Image.open(source) as image:
        image.load()
        if image.mode == "I;16":  # Pillow would clip the 16 bits, not scale them
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        return image.convert("RGB")


def decode_mask(source: Path | BinaryIO, name: str) -> Image.Image:
    """A mask of class indices, one channel of 8 bits; CorruptImage if it is none."""
    with named(f"{name} (mask)"), Image.open(source) as mask:
        mask.load()
        values = np.asarray(mask)
        if values.ndim != 2 or values.min() < 0 or values.max() > 255:
            raise ValueError(f"mode {mask.mode} with values up to {values.max()}; allowed: one channel, 0 to 255")
        return Image.fromarray(values.astype(np.uint8))


@contextmanager
def named(name: str) -> Iterator[None]:
    """CorruptImage with the image's name for whatever a decoder raises: there are many, with no common base."""
    try:
        yield
    except UnidentifiedImageError:  # its message holds a memory address
        raise CorruptImage(f"--data: cannot decode image {name}: it is no image that Pillow knows") from None
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CorruptImage(f"--data: cannot decode image {name}: {reason}") from error


def square(image: Image.Image, size_px: int) -> Pixels:
    """Central square of an RGB image, resized with antialiasing, as (S, S, 3)."""
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BILINEAR, central_box(image)))


def square_mask(mask: Image.Image, size_px: int) -> Pixels:
    """Central square of a class mask, resized by nearest neighbour, as (S, S) class indices."""
    return np.asarray(mask.resize((size_px, size_px), Image.Resampling.NEAREST, central_box(mask)))


def central_box(image: Image.Image) -> Box:
    """Box of the largest central square."""
    side = min(image.size)
    left, upper = (image.width - side) // 2, (image.height - side) // 2
    return left, upper, left + side, upper + side
