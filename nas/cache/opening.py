"""Teacher features computed once per (teachers, images, sizes), kept on disk, opened by every trial.

The folder's name is a hash of all that its content depends on. It is built beside its place and renamed into it, so a
folder that exists is whole; a file lock keeps concurrent builders from doing the work twice.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from nas.data import ImageSet, open_images
from nas.data.imageset import digest
from nas.teachers import TeacherSpec, specs
from nas.cache.build import Plan, build
from nas.cache.targets import FORMAT, CacheError, Targets, load_targets

__all__ = ["CacheError", "Progress", "Targets", "open_targets"]

Progress = Callable[[str, int, int], None]  # stage, done, total


def open_targets(
    images_uri: str,
    teachers_name: str,
    *,
    root: Path,
    train_images: int,
    val_images: int,
    image_px: int,
    grid: int,
    seed: int,
    progress: Progress = lambda stage, done, total: None,
    verify: bool = False,
) -> Targets:
    """Targets of the named teachers on the images, built under `root` if they aren't there yet.

    Images are `image_px` squares, spatial targets `grid` x `grid`. `verify` compares every file's hash.
    DataError, TeacherError or CacheError say in one line what a person can mend.
    """
    if not 1 <= grid <= image_px:
        raise CacheError(f"grid: {grid} is not possible for {image_px} px images; allowed: 1 to {image_px}")
    chosen = specs(teachers_name)
    source_px = max(image_px, *(spec.min_px for spec in chosen))
    train = open_images(images_uri, "train", train_images, seed, source_px, root)
    val = open_images(images_uri, "val", val_images, seed, source_px, root)
    plan = make_plan(chosen, train, val, image_px, grid)
    folder = root / f"targets-{plan.fingerprint}"
    if not folder.exists():
        try:
            build_once(folder, plan, progress)
        except OSError as error:
            raise CacheError(f"teacher cache: cannot build {folder}: {error.strerror or error}") from error
    return load_targets(folder, verify)


def make_plan(chosen: list[TeacherSpec], train: ImageSet, val: ImageSet, image_px: int, grid: int) -> Plan:
    """What to build, with the fingerprint of everything the content depends on."""
    data = digest([train.fingerprint, val.fingerprint])
    fingerprint = digest([FORMAT, data, [(spec.name, spec.fingerprint) for spec in chosen], image_px, grid])
    return Plan(tuple(chosen), train, val, image_px, grid, fingerprint, data)


def build_once(folder: Path, plan: Plan, progress: Progress) -> None:
    """Build `folder` unless another process does so first; an interrupted build leaves no trace."""
    root = folder.parent
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{folder.name}.lock"):
        if folder.exists():
            return
        # We hold the lock: what lies here is the rest of a builder that was killed.
        for stale in root.glob(f".building-{folder.name}-*"):
            shutil.rmtree(stale, ignore_errors=True)
        started = time.monotonic()
        building = Path(tempfile.mkdtemp(prefix=f".building-{folder.name}-", dir=root))
        try:
            build(building, plan, progress, started)
            building.rename(folder)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
