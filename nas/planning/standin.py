"""Targets of the right shapes and of no meaning: what a training step costs depends on shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from nas.cache.standardise import Standardiser
from nas.cache.targets import SplitTargets, Targets, TeacherTargets
from nas.config import SearchConfig


def first_rows(targets: Targets, train: int, val: int) -> Targets:
    """The same targets with fewer images."""
    return replace(targets, train=_first(targets.train, train), val=_first(targets.val, val))


def stand_in(config: SearchConfig, widths: Mapping[str, tuple[int, int]], share: float, rows: int) -> Targets:
    """`rows` images of noise in each split, and targets of noise from teachers of these (summary, spatial) widths.

    No labels, no masks. `share` of each head's channels is kept.
    """
    rng = np.random.default_rng(0)
    px, grid = config.distill.image_px, config.grid
    kept = {
        name: (max(1, round(share * summary)) if summary else 0, max(1, round(share * spatial)))
        for name, (summary, spatial) in widths.items()
    }

    def split() -> SplitTargets:
        return SplitTargets(
            images=rng.integers(0, 256, (rows, 3, px, px), dtype=np.uint8),
            labels=None,
            masks=None,
            summary={name: rng.standard_normal((rows, s), dtype=np.float32) for name, (s, _) in kept.items() if s},
            spatial={
                name: rng.standard_normal((rows, m, grid, grid), dtype=np.float32) for name, (_, m) in kept.items()
            },
        )

    def standardiser(channels: int, dims: int) -> Standardiser:
        forward = rng.standard_normal((dims, channels)) / channels**0.5
        return Standardiser(np.zeros(channels), forward, np.linalg.pinv(forward), 1.0)

    teachers = {
        name: TeacherTargets(
            "stand-in",
            standardiser(summary, kept[name][0]) if summary else None,
            standardiser(spatial, kept[name][1]),
        )
        for name, (summary, spatial) in widths.items()
    }
    nothing = Path("stand-in")
    return Targets(nothing, "stand-in", "stand-in", split(), split(), teachers, None, None, px, grid, 0.0, ())


def _first(split: SplitTargets, rows: int) -> SplitTargets:
    return SplitTargets(
        images=split.images[:rows],
        labels=None if split.labels is None else split.labels[:rows],
        masks=None if split.masks is None else split.masks[:rows],
        summary={name: array[:rows] for name, array in split.summary.items()},
        spatial={name: array[:rows] for name, array in split.spatial.items()},
    )
