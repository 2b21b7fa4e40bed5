"""`cifar10`: CIFAR-10, downloaded once. The binary version has plain bytes, so no pickle is ever opened."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import Request, urlopen

import numpy as np
from filelock import FileLock
from PIL import Image

from nas.data.dataset import DataError, DataUnavailable, Pixels, Sample, Split, digest, file_identity, square

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # published next to the download
FOLDER = "cifar-10-batches-bin"
FILES: dict[Split, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{n}.bin" for n in range(1, 6)),
    "val": ("test_batch.bin",),
}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TIMEOUT_S = 5.0  # for asking whether the archive is there
RECORD_BYTES = 1 + 3 * 32 * 32  # label, then the red, green and blue planes


@dataclass(frozen=True)
class Cifar10:
    """Records of the original train or test set, in an order that depends on the seed."""

    files: tuple[Path, ...]
    order: tuple[int, ...]
    size_px: int
    uri: str = "cifar10"
    num_classes: int = len(CLASSES)
    class_names: tuple[str, ...] = CLASSES
    has_masks: bool = False
    mask_classes: int | None = None
    available: int = 0
    notes: tuple[str, ...] = ()

    @cached_property
    def records(self) -> Pixels:
        """Return all records (N, 3073)."""
        return np.concatenate([np.fromfile(file, dtype=np.uint8).reshape(-1, RECORD_BYTES) for file in self.files])

    @cached_property
    def fingerprint(self) -> str:
        """Return a digest of the files, the order and the size."""
        return digest(["cifar10", 1, self.size_px, self.order, [file_identity(file) for file in self.files]])

    def at_size(self, size_px: int) -> Cifar10:
        """Return the set of the same scenes as squares of another size."""
        return replace(self, size_px=size_px)

    def __len__(self) -> int:
        return len(self.order)

    def read(self, i: int) -> Sample:
        """Read image `i` of the order."""
        return self.read_sizes(i, (self.size_px,))[self.size_px]

    def read_sizes(self, i: int, sizes_px: Collection[int]) -> dict[int, Sample]:
        """Read image `i` of the order at several sizes."""
        record = self.records[self.order[i]]
        image = Image.fromarray(record[1:].reshape(3, 32, 32).transpose(1, 2, 0).copy())
        return {px: Sample(square(image, px), int(record[0]), None) for px in sizes_px}


def find_cifar10(cache_dir: Path) -> bool:
    """Return whether `cache_dir` has CIFAR-10, and nothing has to be downloaded; DataError if it cannot be."""
    if all(_complete(_files(cache_dir, split)) for split in FILES):
        return True
    try:
        with urlopen(Request(URL, method="HEAD"), timeout=TIMEOUT_S):
            return False
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise DataUnavailable(
            f"--data cifar10: cannot download {URL} ({reason}); copy its folder {FOLDER} into '{cache_dir}'"
        ) from error


def _files(cache_dir: Path, split: Split) -> tuple[Path, ...]:
    return tuple(cache_dir / FOLDER / name for name in FILES[split])


def _complete(files: tuple[Path, ...]) -> bool:
    return all(file.is_file() for file in files)


def _download(cache_dir: Path, files: tuple[Path, ...]) -> None:
    """Download and unpack the archive, once for all processes; a file gets its name when it is whole."""
    from torchvision.datasets.utils import download_and_extract_archive  # imports torch, which takes seconds

    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(cache_dir / f".{FOLDER}.lock"), TemporaryDirectory(dir=cache_dir, prefix=".cifar10-") as unpacked:
            if _complete(files):
                return
            download_and_extract_archive(URL, str(cache_dir), unpacked, md5=MD5)
            (cache_dir / FOLDER).mkdir(exist_ok=True)
            for file in Path(unpacked, FOLDER).iterdir():
                file.replace(cache_dir / FOLDER / file.name)
    except (OSError, RuntimeError) as error:
        raise DataUnavailable(f"--data cifar10: cannot download {URL} into '{cache_dir}': {error}") from error


def open_cifar10(cache_dir: Path, split: Split, count: int | None, seed: int, size_px: int) -> Cifar10:
    """Open CIFAR-10 in `cache_dir`; it is downloaded (170 MB) if missing. DataError if a file is missing or damaged."""
    files = _files(cache_dir, split)
    if not _complete(files):
        _download(cache_dir, files)
    total = 0
    for file in files:
        records, rest = divmod(file.stat().st_size, RECORD_BYTES)
        if rest or not records:
            raise DataError(f"--data cifar10: '{file}' is damaged; delete it to download it again")
        total += records
    order = np.random.default_rng(seed).permutation(total)[:count]
    return Cifar10(files, tuple(order.tolist()), size_px, available=total)
