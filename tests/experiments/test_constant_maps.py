"""What a prediction scores that is the same for every image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.distillation.constant_maps import constant_map_scores
from nas.cache.targets import Targets
from tests.nas.distill.targets_builder import two_teachers


def with_maps(targets: Targets, place: float, image: float) -> Targets:
    """Targets of channels that depend on the place by one deviation, and on the image by another."""
    rng = np.random.default_rng(0)
    places = rng.choice([-place, place], size=(1, 64, 2, 2))
    parts = {}
    for name in ("train", "val"):
        split = getattr(targets, name)
        maps = places + image * rng.normal(size=(len(split), 64, 2, 2))
        parts[name] = replace(split, spatial=dict.fromkeys(targets.teachers, maps))
    return replace(targets, **parts)


@pytest.mark.parametrize(("place", "image", "expected"), [(0.0, 1.0, 0.0), (1.0, 1.0, 0.43), (1.0, 0.0, 1.0)])
def test_the_place_explains_what_does_not_depend_on_the_image(
    tmp_path: Path, place: float, image: float, expected: float
) -> None:
    scores = constant_map_scores(with_maps(two_teachers(tmp_path), place, image))
    assert scores.keys() == {"colour", "mean"}
    # Four places: their mean over a channel takes a quarter of the variance of places away, 0.75 / 1.75 is left.
    assert list(scores.values()) == pytest.approx([expected] * 2, abs=0.05)
