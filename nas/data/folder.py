"""`imagefolder:PATH`: a folder of images. Its subfolders are classes; ``train`` and ``val`` are splits.

Links to folders and files are followed. If an image lies outside of the class folders, the set has no labels. Every
file that is no image of the set, and a label that is not used, is in the set's notes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from nas.data.dataset import (
    PERMANENT,
    DataError,
    DataUnavailable,
    Sample,
    Split,
    decode,
    digest,
    held_out,
    identities,
    left_out_note,
    printable,
    read_file,
    shuffled,
    square,
    with_retries,
)

SPLITS = ("train", "val")
OTHER_SPLITS = frozenset({"test", "testing", "valid", "validation", "eval", "dev"})  # next to "train": no classes
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


@dataclass(frozen=True)
class ImageFolder:
    """Images `names` (paths relative to `root`, POSIX form) of one split; the first folder of a name is its class."""

    root: Path
    names: tuple[str, ...]
    classes: tuple[str, ...]  # empty without labels
    size_px: int
    uri: str
    available: int
    notes: tuple[str, ...] = ()
    has_masks: bool = False
    mask_classes: int | None = None

    @property
    def num_classes(self) -> int | None:
        """Return the number of classes, None without labels."""
        return len(self.classes) or None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Return the names of the class folders, None without labels."""
        return tuple(map(printable, self.classes)) or None

    @cached_property
    def fingerprint(self) -> str:
        """Return a digest of the files, the classes and the size."""
        files = identities([self.root / name for name in self.names])
        return digest(["imagefolder", 4, self.size_px, self.classes, self.names, files])

    def at_size(self, size_px: int) -> ImageFolder:
        """Return the set of the same scenes as squares of another size."""
        return replace(self, size_px=size_px)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, i: int) -> Sample:
        """Read image `i`; CorruptImage if it cannot be decoded."""
        return self.read_sizes(i, (self.size_px,))[self.size_px]

    def read_sizes(self, i: int, sizes_px: Collection[int]) -> dict[int, Sample]:
        """Read image `i` at several sizes; CorruptImage if it cannot be decoded."""
        name = self.names[i]
        image = decode(io.BytesIO(read_file(self.root / name)), name)
        label = self.classes.index(name.split("/")[0]) if self.classes else None
        return {px: Sample(square(image, px), label, None) for px in sizes_px}


def image_root(path: str) -> Path:
    """Return the folder of images; DataError where there is none."""
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"--data imagefolder: no such folder '{path}'")
    return root


def open_folder(path: str, split: Split, count: int | None, seed: int, size_px: int) -> ImageFolder:
    """Open the images under `path`. DataError where there is no such folder or no image on this side of the split.

    If it has folders ``train`` and ``val``, these are the splits. Otherwise an image's split
    follows from the hash of its relative path, so adding images moves none. A folder ``train`` alone is no class.
    A folder of images to which both ``train`` and ``val`` lead, by links, is refused when ``val`` is opened; a link to
    a single image is not looked at.
    """
    root = image_root(path)
    separated = all((root / name).is_dir() for name in SPLITS)
    scan = FolderScan(root / "train" if separated else root)
    if not separated and scan.classes()[0] == ("train",):
        root = root / "train"
        scan = FolderScan(root)
    present, (classes, notes) = scan.names(), scan.classes()
    if "train" in classes and (others := sorted(OTHER_SPLITS & {*classes})):
        raise DataError(
            f"--data imagefolder: the folders 'train' and '{others[0]}' of '{path}' would be two classes; call the"
            f" held-out images 'val', or give imagefolder:{path}/train alone"
        )
    notes += scan.notes()
    if separated:
        root = root / split
        if split == "val":
            of_train, scan = scan, FolderScan(root)
            notes = scan.notes()
            if shared := sorted(of_train.folders & scan.folders):
                raise DataError(
                    f"--data imagefolder: '{path}/train' and '{path}/val' both lead to '{shared[0]}': held-out"
                    " images would be trained on; give each its own folders"
                )
        names = scan.names()
        strange = next((name for name in names if classes and name.split("/")[0] not in classes), None)
        if strange:
            raise DataError(f"--data imagefolder: '{root / strange}' is in no class folder of '{path}/train'")
    else:
        names = [name for name in present if held_out(name) == (split == "val")]
    if not names:
        raise DataError(f"--data imagefolder: no image of '{path}' ({len(present)} in all) is in the {split} split")
    chosen = tuple(shuffled(names, seed, str)[:count])
    return ImageFolder(root, chosen, classes, size_px, f"imagefolder:{path}", len(names), notes)


@dataclass
class FolderScan:
    """All files below a folder: images, and by reason what is left out."""

    root: Path
    images: list[str] = field(default_factory=list)  # paths relative to the root, POSIX form
    left_out: dict[str, list[str]] = field(default_factory=dict)  # reason -> paths
    folders: set[Path] = field(default_factory=set)  # those with images, links followed

    def __post_init__(self) -> None:
        self._scan(self.root, frozenset())

    def names(self) -> list[str]:
        """Return the images' paths, sorted; DataError where there are none."""
        if not self.images:
            looked = f"looked for {', '.join(sorted(SUFFIXES))}"
            raise DataError(f"--data imagefolder: no images in '{self.root}' ({'; '.join((looked, *self.notes()))})")
        return sorted(self.images)

    def classes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the first folders of the images' paths, sorted, and no note; or none, and why."""
        stray = [name for name in sorted(self.images) if "/" not in name]
        classes = tuple(sorted({name.split("/")[0] for name in self.images if "/" in name}))
        if not stray or not classes:
            return classes, ()
        which = f"'{stray[0]}' lies" if len(stray) == 1 else f"'{stray[0]}' and {len(stray) - 1:,} more lie"
        return (), (printable(f"labels are not used: {which} in no class folder"),)

    def notes(self) -> tuple[str, ...]:
        """Return a line for each reason, with the number of files and the first one."""
        return tuple(left_out_note(reason, sorted(paths)) for reason, paths in sorted(self.left_out.items()))

    def _scan(self, folder: Path, parents: frozenset[Path]) -> None:
        """Add what a folder holds. Links are followed, except to one of the link's own parents."""
        place = folder.resolve()
        if place in parents:
            self._leave_out(folder, "links to folders that contain them")
            return
        try:
            entries = with_retries(folder, lambda: sorted(os.scandir(folder), key=lambda entry: entry.name))
        except DataUnavailable as error:
            cause = error.__cause__
            if not isinstance(cause, PERMANENT):  # without this folder, the images would be other data
                raise
            self._leave_out(folder, f"folders that cannot be read ({cause.strerror})")
            return
        for entry in entries:
            if _is_folder(entry):
                self._scan(Path(entry.path), parents | {place})
            elif reason := _no_image(entry):
                self._leave_out(Path(entry.path), reason)
            else:
                self.images.append(self._name(Path(entry.path)))
                self.folders.add(place)

    def _leave_out(self, path: Path, reason: str) -> None:
        self.left_out.setdefault(reason, []).append(self._name(path))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _no_image(entry: os.DirEntry[str]) -> str:
    """Return why a file of a folder is no image of the set, without opening it; "" if it may be one."""
    suffix = Path(entry.name).suffix.lower()
    if suffix not in SUFFIXES:
        return f"files with the suffix {suffix}" if suffix else "files without a suffix"
    try:
        if entry.is_file():
            return ""
        exists = Path(entry.path).exists()
    except OSError:  # a link to itself
        exists = False
    # Opening a named pipe would wait for its writer.
    return "pipes, sockets and devices" if exists else "links to missing files"
