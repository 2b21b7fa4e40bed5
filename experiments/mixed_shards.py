"""Write CIFAR-10 and CamVid images into one pair of WebDataset shards, in a random order.

    python -m experiments.mixed_shards FOLDER

Small photographs of objects and large ones of streets: the images of the first search of the space `full`
(experiments/LOG.md, 2026-11-28, night). A search reads whole shards, so images of two sources have to be mixed in them.
FOLDER/train.tar gets 2,800 images of CIFAR-10 and the 200 training images of CamVid, FOLDER/val.tar 500 and 100.
Classes and masks are left out: each exists for one part of the images only.

Needs:     ../shared/data
Hardware:  any; some seconds
"""

from __future__ import annotations

import argparse
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.distillation.teachers import DATA

COUNTS = {"train": {"cifar10": 2800, "camvid": 200}, "val": {"cifar10": 500, "camvid": 100}}


def images_of(source: str, split: str) -> Iterator[bytes]:
    """Yield the JPEG files of a source's shards in their order."""
    for shard in sorted((DATA / source).glob(f"{split}-*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                if member.name.endswith(".jpg"):
                    yield archive.extractfile(member).read()  # type: ignore[union-attr]


def write(split: str, path: Path) -> None:
    """Write the shard of a split: the first images of each source, shuffled with seed 0."""
    images = []
    for source, count in COUNTS[split].items():
        images += [image for _, image in zip(range(count), images_of(source, split), strict=False)]
    with tarfile.open(path, "w") as archive:
        for number, row in enumerate(np.random.default_rng(0).permutation(len(images))):
            entry = tarfile.TarInfo(f"{number:06d}.jpg")
            entry.size = len(images[row])
            archive.addfile(entry, io.BytesIO(images[row]))


def main() -> None:
    """Write both shards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write to; it is made")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for split, counts in COUNTS.items():
        write(split, folder / f"{split}.tar")
        print(f"{folder / split}.tar: {sum(counts.values()):,} images")


if __name__ == "__main__":
    main()
