"""Augment images before they are stored: each image several times, first plain, then cropped, mirrored and recolored.

Teachers run once on what is stored, so augmentation must be part of it: features of a mirrored image are not the
mirrored features (a ViT's position embedding is not symmetric), nor those of a crop the crop of features.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance

from nas.data.dataset import Box, ImageSet, Pixels, Sample, digest

VERSION = 1  # part of the fingerprint: raise it when the augmentations change
CROP_AREA = (0.4, 1.0)  # share of the image's area
CROP_RATIO = (3 / 4, 4 / 3)  # width to height
FLIP_SHARE = 0.5  # share of mirrored views
COLOR_JITTER = 0.3  # brightness, contrast and saturation are scaled by up to 1 +- 0.3
ENLARGEMENT = 1.5  # crops are cut from an image with 1.5 times the side, so that small crops keep their resolution
PROBE_IMAGES = 8  # augmentations in the fingerprint, which tell versions of the random generator apart


class Augmentation(NamedTuple):
    """The operations on an image: cut out `box` (shares of the sides), mirror, scale the colors."""

    box: Box
    flipped: bool
    brightness: float
    contrast: float
    saturation: float


UNCHANGED = Augmentation((0.0, 0.0, 1.0, 1.0), False, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class AugmentedSet:
    """`views` views of each image of `plain`.

    All plain images come first, then all second views, and so on: every prefix shows as many images as it can. Item i
    is a pure function of the seed and i; image and mask move together.
    """

    plain: ImageSet
    views: int
    seed: int

    @property
    def uri(self) -> str:
        """Return the source of the plain images."""
        return self.plain.uri

    @property
    def size_px(self) -> int:
        """Return the side of every image and mask."""
        return self.plain.size_px

    @property
    def num_classes(self) -> int | None:
        """Return the number of classes, None without labels."""
        return self.plain.num_classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Return the classes' names where they are known."""
        return self.plain.class_names

    @property
    def has_masks(self) -> bool:
        """Tell whether every image has a mask."""
        return self.plain.has_masks

    @property
    def mask_classes(self) -> int | None:
        """Return the number of classes in masks, None without masks."""
        return self.plain.mask_classes

    @property
    def available(self) -> int:
        """Return the number of plain images before a count is applied."""
        return self.plain.available

    @property
    def notes(self) -> tuple[str, ...]:
        """Return the notes of the plain images."""
        return self.plain.notes

    @cached_property
    def fingerprint(self) -> str:
        """Return a digest of the recipe, of a few random augmentations and of the plain images."""
        recipe = [
            VERSION,
            CROP_AREA,
            CROP_RATIO,
            FLIP_SHARE,
            COLOR_JITTER,
            _enlarged(self.size_px),
            self.views,
            self.seed,
        ]
        drawn = [tuple(random_augmentation(self.seed, image, 1)) for image in range(PROBE_IMAGES)]
        return digest(["views", recipe, drawn, self.plain.fingerprint])

    def at_size(self, size_px: int) -> AugmentedSet:
        """Return the set of the same scenes as squares of another size."""
        return replace(self, plain=self.plain.at_size(size_px))

    def __len__(self) -> int:
        return len(self.plain) * self.views

    def augmentation(self, i: int) -> Augmentation:
        """Return the augmentation that turns image ``i % len(plain)`` into item i."""
        number, image = divmod(i, len(self.plain))
        if not 0 <= number < self.views:
            raise IndexError(i)
        return random_augmentation(self.seed, image, number) if number else UNCHANGED

    def read(self, i: int) -> Sample:
        """Read item `i`; CorruptImage if its image cannot be decoded."""
        return self.read_sizes(i, (self.size_px,))[self.size_px]

    def read_sizes(self, i: int, sizes_px: Collection[int]) -> dict[int, Sample]:
        """Read item `i` at several sizes; CorruptImage if its image cannot be decoded."""
        augmentation, image = self.augmentation(i), i % len(self.plain)
        if augmentation == UNCHANGED:
            return self.plain.read_sizes(image, sizes_px)
        enlarged = self.plain.read_sizes(image, {_enlarged(px) for px in sizes_px})
        return {px: apply(augmentation, enlarged[_enlarged(px)], px) for px in sizes_px}


def _enlarged(size_px: int) -> int:
    """Return the side of the squares from which augmented images of a size are cut."""
    return round(ENLARGEMENT * size_px)


def random_augmentation(seed: int, image: int, number: int) -> Augmentation:
    """Draw augmentation `number` of an image: a resized crop, a flip and colors; a pure function of its arguments."""
    rng = np.random.default_rng([seed, image, number])
    area, ratio = rng.uniform(*CROP_AREA), math.exp(rng.uniform(*np.log(CROP_RATIO)))
    # A long crop of a large area would be longer than the square's side.
    width, height = min(1.0, math.sqrt(area * ratio)), min(1.0, math.sqrt(area / ratio))
    left, upper = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    flipped = bool(rng.random() < FLIP_SHARE)
    brightness, contrast, saturation = rng.uniform(1 - COLOR_JITTER, 1 + COLOR_JITTER, 3).tolist()
    return Augmentation((left, upper, left + width, upper + height), flipped, brightness, contrast, saturation)


def apply(augmentation: Augmentation, sample: Sample, size_px: int) -> Sample:
    """Return the augmented sample as a `size_px` square."""
    image = cut_box(augmentation, sample.image, size_px, Image.Resampling.BILINEAR)
    image = ImageEnhance.Brightness(image).enhance(augmentation.brightness)
    image = ImageEnhance.Contrast(image).enhance(augmentation.contrast)
    image = ImageEnhance.Color(image).enhance(augmentation.saturation)
    mask = sample.mask
    if mask is not None:
        mask = np.asarray(cut_box(augmentation, mask, size_px, Image.Resampling.NEAREST))
    return Sample(np.asarray(image), sample.label, mask)


def cut_box(augmentation: Augmentation, pixels: Pixels, size_px: int, resampling: Image.Resampling) -> Image.Image:
    """Cut the augmentation's box out of a square image or mask, resized and mirrored."""
    left, upper, right, lower = (share * len(pixels) for share in augmentation.box)
    image = Image.fromarray(pixels).resize((size_px, size_px), resampling, (left, upper, right, lower))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if augmentation.flipped else image
