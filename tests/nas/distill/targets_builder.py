"""Teacher targets that a small student can learn within seconds: real photographs, three fixed random projections."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from skimage import data
from torch.nn import functional as F

from nas.cache.standardize import Moments, Standardizer, fit, spectrum
from nas.cache.targets import SplitTargets, Targets, TeacherTargets


def photo_crops(count: int, seed: int, size: int = 32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    photos = [data.astronaut(), data.chelsea(), data.coffee()]
    crops = []
    for _ in range(count):
        photo = photos[rng.integers(len(photos))]
        top, left = rng.integers(photo.shape[0] - size), rng.integers(photo.shape[1] - size)
        crops.append(photo[top : top + size, left : left + size])
    return np.stack(crops).transpose(0, 3, 1, 2)


def split_of(count: int, seed: int, size: int = 32) -> SplitTargets:
    images = photo_crops(count, seed, size)
    cells = F.adaptive_avg_pool2d(torch.from_numpy(images).float() / 255 - 0.5, 2)
    projection = torch.randn(8, 3, generator=torch.Generator().manual_seed(7))
    spatial = torch.einsum("kc,nchw->nkhw", projection, cells)
    spatial = ((spatial - spatial.mean((0, 2, 3), keepdim=True)) / spatial.std()).half().float()
    summary = spatial.mean((2, 3)).half().float()
    labels = (images.mean((1, 2, 3)) > 110).astype(np.int64)
    masks = (images.mean(1) > 110).astype(np.uint8)
    return SplitTargets(images, labels, masks, {"colour": summary.numpy()}, {"colour": spatial.numpy()})


def targets(folder: Path, train: int = 96, val: int = 32) -> Targets:
    none = Standardizer(np.zeros(8), np.eye(8), np.eye(8), 1.0)
    teacher = TeacherTargets("fingerprint", none, none)
    return Targets(
        folder, "all", "data", split_of(train, 0), split_of(val, 1), {"colour": teacher}, 2, 2, 32, 2, 0.0, ()
    )


def two_teachers(folder: Path) -> Targets:
    """At 64 px; the second teacher has no summary, as SAM."""
    one = targets(folder)
    train, val = split_of(96, 0, 64), split_of(32, 1, 64)
    for split in (train, val):
        split.spatial["mean"] = split.spatial["colour"][:, :4].copy()  # type: ignore[index]
    few = Standardizer(np.zeros(4), np.eye(4), np.eye(4), 1.0)
    teachers = {**one.teachers, "mean": TeacherTargets("other", few, few)}
    return replace(one, train=train, val=val, teachers=teachers, image_px=64)


def standardizer(channels: int, dims: int, seed: int) -> Standardizer:
    """Fitted on features with a large mean and unequal, correlated channels."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(400, channels)) @ rng.normal(size=(channels, channels)) * 5 + rng.normal(size=channels) * 40
    moments = Moments(channels)
    moments.update(rows)
    return fit(spectrum(moments), dims)
