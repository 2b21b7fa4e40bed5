"""`imagefolder:PATH`: a folder of images. Its subfolders are classes; ``train`` and ``val`` are splits.

Links to folders and files are followed. If an image lies outside of the class folders, a warning names it and the set
has no labels.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nas.data.dataset import DataError, Sample, Split, decode, digest, held_out, identities, shuffled, square

SPLITS = ("train", "val")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


@dataclass(frozen=True)
class ImageFolder:
    """Images `names` (paths relative to `root`, POSIX form) of one split; the first folder of a name is its class."""

    root: Path
    names: tuple[str, ...]
    classes: tuple[str, ...]  # empty without labels
    size_px: int
    uri: str
    has_masks: bool = False
    mask_classes: int | None = None

    @property
    def num_classes(self) -> int | None:
        """Return the number of classes, None without labels."""
        return len(self.classes) or None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Return the names of the class folders, None without labels."""
        return self.classes or None

    @cached_property
    def fingerprint(self) -> str:
        """Return a digest of the files, the classes and the size."""
        files = identities([self.root / name for name in self.names])
        return digest(["imagefolder", 2, self.size_px, self.classes, self.names, files])

    def __len__(self) -> int:
        return len(self.names)

    def read(self, i: int) -> Sample:
        """Read image `i`; CorruptImage if it cannot be decoded."""
        name = self.names[i]
        image = decode(self.root / name, name)
        label = self.classes.index(name.split("/")[0]) if self.classes else None
        return Sample(square(image, self.size_px), label, None)


def open_folder(path: str, split: Split, count: int | None, seed: int, size_px: int) -> ImageFolder:
    """Open the images under `path`. DataError where there is no such folder or no image on this side of the split.

    If it has folders ``train`` and ``val``, these are the splits. Otherwise an image's split
    follows from the hash of its relative path, so adding images moves none.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"--data imagefolder: no such folder '{path}'")
    separated = all((root / name).is_dir() for name in SPLITS)
    present = images_in(root / "train" if separated else root)
    classes = class_names(present, f"imagefolder:{path}")
    if separated:
        root = root / split
        names = present if split == "train" else images_in(root)
        strange = next((name for name in names if classes and name.split("/")[0] not in classes), None)
        if strange:
            raise DataError(f"--data imagefolder: '{root / strange}' is in no class folder of '{path}/train'")
    else:
        names = [name for name in present if held_out(name) == (split == "val")]
    if not names:
        raise DataError(
            f"--data imagefolder: no image of '{path}' ({len(present)} in all) falls into the {split} split"
        )
    return ImageFolder(root, tuple(shuffled(names, seed, str)[:count]), classes, size_px, uri=f"imagefolder:{path}")


def images_in(root: Path) -> list[str]:
    """Return the images' relative paths, POSIX form, sorted; DataError where there are none."""
    names = sorted(path.relative_to(root).as_posix() for path in image_files(root))
    if not names:
        raise DataError(f"--data imagefolder: no images in '{root}' (looked for {', '.join(sorted(SUFFIXES))})")
    return names


def image_files(folder: Path, parents: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Yield the image files below a folder. Links are followed, except to one of the link's own parents."""
    place = folder.resolve()
    if place in parents:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from image_files(Path(entry.path), parents | {place})
            elif Path(entry.name).suffix.lower() in SUFFIXES:
                yield Path(entry.path)


def class_names(names: Sequence[str], uri: str) -> tuple[str, ...]:
    """Return the first folders of images' relative paths, sorted; none, with a warning, where an image lies in none."""
    stray = next((name for name in names if "/" not in name), None)
    classes = tuple(sorted({name.split("/")[0] for name in names if "/" in name}))
    if stray is None or not classes:
        return classes
    warnings.warn(f"--data {uri}: '{stray}' lies in no class folder: no image gets a label", stacklevel=2)
    return ()
