"""The embedded images: an OpenMoji glyph or two on a crop of a real photograph, with class and exact mask.

Nothing is stored: an image is a pure function of (seed, split, index, size), three milliseconds each. Objects and
photograph parts of the validation split never appear in the train split.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from nas.data.dataset import DataError, Pixels, Sample, Split, digest, file_identity
from nas.data.glyphs import CLASSES, draw, font_path, objects
from nas.data.photographs import crop, paths, shift_colours
from nas.data.pixels import square, square_mask

VERSION = 2  # raise it when the drawing changes
DRAWN_PX = 128  # smaller images are shrunk from this: whole pixels are coarse there, and all sizes must show one scene
PROBED = 8  # images drawn for the fingerprint: it tells rendering libraries apart that draw differently
MAIN_SCALE = (0.45, 0.8)  # of the image's side
DISTRACTOR_SCALE = (0.22, 0.35)
DISTRACTOR_SHARE = 0.35
MAX_ANGLE_DEG = 35.0
MIN_SIZE_PX = 32


@dataclass(frozen=True)
class Composites:
    """`count` composites of a split at `size_px`. Mask values: 0 background, class + 1 on an object."""

    split: Split
    count: int
    seed: int
    size_px: int
    uri: str = "embedded"
    num_classes: int = len(CLASSES)
    class_names: tuple[str, ...] = tuple(CLASSES)
    has_masks: bool = True
    mask_classes: int = len(CLASSES) + 1

    def __post_init__(self) -> None:
        if self.size_px < MIN_SIZE_PX:
            raise DataError(f"--data embedded: size {self.size_px} px is too small; at least {MIN_SIZE_PX}")

    def __len__(self) -> int:
        return self.count

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the recipe, its sources and what this machine's libraries draw from them."""
        sources = [file_identity(path) for path in [font_path(), *paths()]]
        drawn = [self.read(i) for i in range(min(PROBED, self.count))]
        pixels = [(sample.image.tobytes(), sample.label) for sample in drawn]
        return digest(["embedded", VERSION, self.split, self.count, self.seed, self.size_px, sources, pixels])

    def read(self, i: int) -> Sample:
        """Composite `i`. Classes take turns, so every prefix is balanced."""
        if not 0 <= i < self.count:
            raise IndexError(i)
        rng = np.random.default_rng([self.seed, self.split == "val", i])
        label = i % self.num_classes
        drawn_px = max(self.size_px, DRAWN_PX)
        image = crop(self.split, rng, drawn_px)
        mask = np.zeros((drawn_px, drawn_px), dtype=np.uint8)
        if rng.random() < DISTRACTOR_SHARE:
            other = int((label + rng.integers(1, self.num_classes)) % self.num_classes)
            paste(image, mask, self.split, other, DISTRACTOR_SCALE, rng)
        paste(image, mask, self.split, label, MAIN_SCALE, rng)
        return Sample(square(image, self.size_px), label, square_mask(Image.fromarray(mask), self.size_px))


def paste(
    image: Image.Image,
    mask: Pixels,
    split: Split,
    label: int,
    scale: tuple[float, float],
    rng: np.random.Generator,
) -> None:
    """Put a random object of class `label` into image and mask, in place; it covers what is there."""
    glyph = posed(split, label, scale, rng, image.width)
    # A tenth of the object may leave the image.
    slack_x, slack_y = glyph.width // 10, glyph.height // 10
    left = int(rng.integers(-slack_x, max(image.width - glyph.width + slack_x, -slack_x) + 1))
    upper = int(rng.integers(-slack_y, max(image.height - glyph.height + slack_y, -slack_y) + 1))
    layer = Image.new("RGBA", image.size)
    layer.paste(glyph, (left, upper))
    alpha = layer.getchannel("A")
    image.paste(layer, (0, 0), alpha)
    mask[np.asarray(alpha) > 127] = label + 1


def posed(split: Split, label: int, scale: tuple[float, float], rng: np.random.Generator, size_px: int) -> Image.Image:
    """A random object of a class in random size, colour, mirroring and rotation, cropped, no larger than the image."""
    glyphs = objects(split)[label]
    character = glyphs[rng.integers(len(glyphs))]
    glyph = draw(character, max(8, round(size_px * rng.uniform(*scale))))
    if rng.random() < 0.5:
        glyph = glyph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    glyph = shift_colours(glyph, rng, gain=0.25, offset=15)
    angle = float(rng.uniform(-MAX_ANGLE_DEG, MAX_ANGLE_DEG))
    glyph = glyph.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    glyph = glyph.crop(glyph.getchannel("A").getbbox())
    glyph.thumbnail((size_px, size_px))
    return glyph
