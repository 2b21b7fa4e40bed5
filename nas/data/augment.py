"""Stored augmentations: every image several times, first plain, then cropped, mirrored and recolored.

Teachers run once on what is stored, so augmentation must be part of it: features of a mirrored image are not the
mirrored features (a ViT's position embedding is not symmetric), nor those of a crop the crop of features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance

from nas.data.dataset import Box, ImageSet, Pixels, Sample, digest

VERSION = 1  # raise it when views change
AREA = (0.4, 1.0)  # of the image, in a crop
RATIO = (3 / 4, 4 / 3)  # width to height of a crop
FLIPPED = 0.5  # share of mirrored views
JITTER = 0.3  # brightness, contrast and saturation are scaled by 1 +- this
ENLARGED = 1.5  # side of the image that crops are cut from, in sides of a view: the smallest crop is not enlarged much
PROBED = 8  # views in the fingerprint: it tells versions of the random generator apart


class Augmentation(NamedTuple):
    """The operations on an image: cut out `box` (shares of the sides), mirror, scale the colors."""

    box: Box
    flipped: bool
    brightness: float
    contrast: float
    saturation: float


PLAIN = Augmentation((0.0, 0.0, 1.0, 1.0), False, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class AugmentedSet:
    """`views` views of each image of `plain`; `enlarged` holds the same images at `ENLARGED` times the size.

    All plain images come first, then all second views, and so on: every prefix shows as many images as it can. Item i
    is a pure function of the seed and i; image and mask move together.
    """

    plain: ImageSet
    enlarged: ImageSet
    views: int
    seed: int

    @property
    def uri(self) -> str:
        return self.plain.uri

    @property
    def size_px(self) -> int:
        return self.plain.size_px

    @property
    def num_classes(self) -> int | None:
        return self.plain.num_classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self.plain.class_names

    @property
    def has_masks(self) -> bool:
        return self.plain.has_masks

    @property
    def mask_classes(self) -> int | None:
        return self.plain.mask_classes

    @cached_property
    def fingerprint(self) -> str:
        recipe = [VERSION, AREA, RATIO, FLIPPED, JITTER, self.enlarged.size_px, self.views, self.seed]
        drawn = [tuple(random_augmentation(self.seed, image, 1)) for image in range(PROBED)]
        return digest(["views", recipe, drawn, self.plain.fingerprint])

    def __len__(self) -> int:
        return len(self.plain) * self.views

    def augmentation(self, i: int) -> Augmentation:
        """Return what is done to image ``i % len(plain)`` for item i."""
        number, image = divmod(i, len(self.plain))
        if not 0 <= number < self.views:
            raise IndexError(i)
        return random_augmentation(self.seed, image, number) if number else PLAIN

    def read(self, i: int) -> Sample:
        augmentation, image = self.augmentation(i), i % len(self.plain)
        if augmentation == PLAIN:
            return self.plain.read(image)
        return apply(augmentation, self.enlarged.read(image), self.size_px)


def random_augmentation(seed: int, image: int, number: int) -> Augmentation:
    """Draw augmentation `number` of an image: a resized crop, a flip and colors; a pure function of its arguments."""
    rng = np.random.default_rng([seed, image, number])
    area, ratio = rng.uniform(*AREA), math.exp(rng.uniform(*np.log(RATIO)))
    # Of a square, a long crop of a large area sticks out: it is cut to the side.
    width, height = min(1.0, math.sqrt(area * ratio)), min(1.0, math.sqrt(area / ratio))
    left, upper = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    flipped = bool(rng.random() < FLIPPED)
    brightness, contrast, saturation = rng.uniform(1 - JITTER, 1 + JITTER, 3).tolist()
    return Augmentation((left, upper, left + width, upper + height), flipped, brightness, contrast, saturation)


def apply(augmentation: Augmentation, sample: Sample, size_px: int) -> Sample:
    """Return the augmented sample as a `size_px` square."""
    image = cut(augmentation, sample.image, size_px, Image.Resampling.BILINEAR)
    image = ImageEnhance.Brightness(image).enhance(augmentation.brightness)
    image = ImageEnhance.Contrast(image).enhance(augmentation.contrast)
    image = ImageEnhance.Color(image).enhance(augmentation.saturation)
    mask = sample.mask
    if mask is not None:
        mask = np.asarray(cut(augmentation, mask, size_px, Image.Resampling.NEAREST))
    return Sample(np.asarray(image), sample.label, mask)


def cut(augmentation: Augmentation, pixels: Pixels, size_px: int, resampling: Image.Resampling) -> Image.Image:
    """Cut the augmentation's box out of a square image or mask, resized and mirrored."""
    left, upper, right, lower = (share * len(pixels) for share in augmentation.box)
    image = Image.fromarray(pixels).resize((size_px, size_px), resampling, (left, upper, right, lower))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if augmentation.flipped else image
