"""Real photographs that scikit-image and scikit-learn carry inside their wheels: backgrounds that need no network."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from nas.data.dataset import DataError, Split

# Colour photographs, then gray ones (surfaces, a person with a camera), which get a random tint.
PHOTOGRAPHS: tuple[tuple[str, str], ...] = (
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/rocket.jpg"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/hubble_deep_field.jpg"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
    ("skimage", "data/brick.png"),
    ("skimage", "data/grass.png"),
    ("skimage", "data/gravel.png"),
    ("skimage", "data/camera.png"),
)
TRAIN_SHARE = 0.62  # of a photograph's width, from the left; the rest is only ever seen in validation
MIN_CROP_PX = 110  # a smaller crop, scaled up, is a blur and no photograph


@cache
def backgrounds(split: Split) -> tuple[Image.Image, ...]:
    """The split's part of every photograph, RGB: left parts to train on, right parts to validate on."""
    parts = []
    for path in paths():
        photograph = Image.open(path).convert("RGB")
        edge = round(photograph.width * TRAIN_SHARE)
        box = (0, 0, edge, photograph.height) if split == "train" else (edge, 0, photograph.width, photograph.height)
        parts.append(photograph.crop(box))
    return tuple(parts)


def paths() -> list[Path]:
    """Files of the photographs; DataError if a package no longer carries one."""
    found = []
    for package, relative in PHOTOGRAPHS:
        spec = find_spec(package)
        folders = list(spec.submodule_search_locations or ()) if spec else []
        path = Path(folders[0], relative) if folders else Path(relative)
        if not path.is_file():
            raise DataError(f"--data embedded: the installed {package} has no {relative}; install the pinned release")
        found.append(path)
    return found


def crop(split: Split, rng: np.random.Generator, size_px: int) -> Image.Image:
    """A random square of a random photograph, maybe mirrored, its colours shifted, as a `size_px` square."""
    parts = backgrounds(split)
    photograph = parts[rng.integers(len(parts))]
    largest = min(photograph.size)
    side = int(rng.integers(MIN_CROP_PX, largest + 1))
    left, upper = (int(rng.integers(0, length - side + 1)) for length in photograph.size)
    square = photograph.resize((size_px, size_px), Image.Resampling.BILINEAR, (left, upper, left + side, upper + side))
    if rng.random() < 0.5:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return shift_colours(square, rng, gain=0.2, offset=20)


def shift_colours(image: Image.Image, rng: np.random.Generator, gain: float, offset: float) -> Image.Image:
    """Scale every channel by 1 +- `gain` and shift all by +- `offset` (of 255); alpha stays."""
    scales, shift = rng.uniform(1 - gain, 1 + gain, 3), rng.uniform(-offset, offset)
    ramp = np.arange(256)
    tables = [np.clip(np.rint(ramp * scale + shift), 0, 255).astype(int).tolist() for scale in scales]
    if image.mode == "RGBA":
        tables.append(ramp.tolist())
    return image.point([value for table in tables for value in table])
