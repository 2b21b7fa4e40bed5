"""What a student is trained on, memory-mapped: images, labels, masks and every teacher's standardised features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.cache.standardise import Standardiser

FORMAT = 1  # raise it when the files change meaning
MANIFEST = "manifest.json"
HEADS = ("summary", "spatial")


class CacheError(ValueError):
    """A teacher cache that cannot be built or trusted. One line that names the file."""


@dataclass(frozen=True)
class SplitTargets:
    """images uint8 (N, 3, S, S); labels int64 (N,); masks uint8 (N, S, S); summary and spatial: teacher -> float16
    (N, k) and (N, k, g, g)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    masks: NDArray[np.uint8] | None
    summary: Mapping[str, NDArray[np.float16]]
    spatial: Mapping[str, NDArray[np.float16]]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class TeacherTargets:
    """How a teacher's targets were made; the standardisers invert them."""

    fingerprint: str
    summary: Standardiser
    spatial: Standardiser

    @property
    def summary_dim(self) -> int:
        return self.summary.dims

    @property
    def spatial_dim(self) -> int:
        return self.spatial.dims

    @property
    def summary_kept(self) -> float:
        """Share of the teacher's summary variance in the targets."""
        return self.summary.kept

    @property
    def spatial_kept(self) -> float:
        """Share of the teacher's spatial variance in the targets."""
        return self.spatial.kept


@dataclass(frozen=True)
class Targets:
    """A whole cache. `fingerprint` names teachers, data and sizes together; `skipped` lists undecodable images."""

    folder: Path
    fingerprint: str
    data_fingerprint: str
    train: SplitTargets
    val: SplitTargets
    teachers: Mapping[str, TeacherTargets]
    num_classes: int | None
    mask_classes: int | None
    image_px: int
    grid: int
    build_seconds: float
    skipped: tuple[str, ...]


def load_targets(folder: Path, verify: bool = False) -> Targets:
    """Memory-map a built cache. CacheError names a missing or resized file, with `verify` also an altered one."""
    manifest = checked_manifest(folder, verify)
    teachers = {}
    for name, about in manifest["teachers"].items():
        summary, spatial = (load_standardiser(folder, name, head, about[f"{head}_kept"]) for head in HEADS)
        teachers[name] = TeacherTargets(about["fingerprint"], summary, spatial)
    plain = {key: manifest[key] for key in ("fingerprint", "data_fingerprint", "num_classes", "mask_classes")}
    plain |= {key: manifest[key] for key in ("image_px", "grid", "build_seconds")}
    train, val = (load_split(folder, split, list(teachers)) for split in ("train", "val"))
    return Targets(folder, train=train, val=val, teachers=teachers, skipped=tuple(manifest["skipped"]), **plain)


def load_split(folder: Path, split: str, teachers: list[str]) -> SplitTargets:
    """One split's arrays, mapped; labels and masks are None where the cache has none."""

    def mapped(name: str) -> Any:
        path = folder / f"{split}-{name}.npy"
        return np.load(path, mmap_mode="r", allow_pickle=False) if path.exists() else None

    summary, spatial = ({name: mapped(f"{name}-{head}") for name in teachers} for head in HEADS)
    return SplitTargets(mapped("images"), mapped("labels"), mapped("masks"), summary, spatial)


def save_standardiser(folder: Path, teacher: str, head: str, fitted: Standardiser) -> None:
    """Write the arrays that `load_standardiser` reads."""
    np.savez(folder / f"{teacher}-{head}.npz", mean=fitted.mean, forward=fitted.forward, inverse=fitted.inverse)


def load_standardiser(folder: Path, teacher: str, head: str, kept: float) -> Standardiser:
    """Inverse of `save_standardiser`; `kept` is in the manifest."""
    with np.load(folder / f"{teacher}-{head}.npz", allow_pickle=False) as arrays:
        return Standardiser(arrays["mean"], arrays["forward"], arrays["inverse"], kept)


def checked_manifest(folder: Path, verify: bool) -> dict[str, Any]:
    """The manifest, after every file it lists was found with its size (and, with `verify`, its sha256)."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        listed = {str(name): (int(entry["bytes"]), entry["sha256"]) for name, entry in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(f"teacher cache: {folder / MANIFEST} is unreadable; delete {folder} to rebuild it") from error
    for name, (size, sha256) in listed.items():
        path = folder / name
        actual = path.stat().st_size if path.is_file() else None
        if actual != size:
            found = "missing" if actual is None else f"{actual} bytes, not {size}"
            raise CacheError(f"teacher cache: {path} is truncated or altered ({found}); delete {folder} to rebuild it")
        if verify and sha256_of(path) != sha256:
            raise CacheError(f"teacher cache: {path} is altered (other content); delete {folder} to rebuild it")
    return manifest


def write_manifest(folder: Path, about: Mapping[str, Any]) -> None:
    """List every file of the folder with size and sha256 beside `about`."""
    paths = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in paths}
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, **about, "files": files}, indent=1))


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
