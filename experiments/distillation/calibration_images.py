"""Measure how much variance of unseen images a teacher's PCA keeps, by the number of images that it was fitted on.

Command:   python -m experiments.distillation.calibration_images [--teachers builtin] [--images 1024 2048 3000]
Hardware:  two cores, about two minutes
Expected:  see experiments/LOG.md, 2026-11-28

The teachers process the built-in images, and each head gets the channels that a cache on a 4 x 4 grid gives it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from nas.cache.grid import to_grid
from nas.cache.images import BATCH
from nas.cache.standardize import as_vectors, calibrate
from nas.cache.teacher_features import read_pixels
from nas.cli import cache_root
from nas.data import Split, open_images
from nas.teachers import Teacher, load_teachers

HELD_OUT = 600
PX, GRID, SHARE = 64, 4, 0.25


def features(teacher: Teacher, split: Split, count: int) -> dict[str, NDArray[np.float32]]:
    """Return a teacher's features of the first images of a split, by head."""
    images = open_images("builtin", split, count, 0, max(PX, teacher.source_px), cache_root())
    parts: dict[str, list[NDArray[np.float32]]] = {}
    for start in range(0, count, BATCH):
        pixels = read_pixels(images.read, range(start, min(count, start + BATCH)))
        with torch.inference_mode():
            summary, spatial = teacher(pixels.float() / 255)
        parts.setdefault("spatial", []).append(to_grid(spatial, GRID).numpy())
        if summary is not None:
            parts.setdefault("summary", []).append(summary.numpy())
    return {head: np.concatenate(values) for head, values in parts.items()}


def main(words: Sequence[str] | None = None) -> None:
    """Print, for each teacher, number of images and head, the shares of variance kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", default="builtin")
    parser.add_argument("--images", nargs="+", type=int, default=[1024, 2048, 3000])
    options = parser.parse_args(words)
    print("teacher  head     images  channels  kept  kept of others")
    for teacher in load_teachers(options.teachers):
        train, val = features(teacher, "train", max(options.images)), features(teacher, "val", HELD_OUT)
        for count in options.images:
            some = {head: values[:count] for head, values in train.items()}
            for head, (standardizer, _) in calibrate(lambda some=some: [some], SHARE).items():  # type: ignore[misc]
                unseen = as_vectors(val[head])
                lost = standardizer.invert(standardizer.apply(unseen)) - unseen
                held_out = 1 - (lost**2).sum() / ((unseen - standardizer.mean) ** 2).sum()
                cells = (teacher.name, head, count, standardizer.dims, standardizer.kept, held_out)
                print("{:8} {:8} {:6} {:9} {:5.3f} {:5.3f}".format(*cells))


if __name__ == "__main__":
    main()
