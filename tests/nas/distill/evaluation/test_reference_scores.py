"""What a prediction scores that is the same for every image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nas.cache.targets import Targets
from nas.distill.evaluation import tasks
from nas.distill.evaluation.explained_variance import constant_map_scores
from nas.distill.evaluation.reference_scores import chance
from tests.nas.distill.targets_builder import targets, two_teachers


def with_maps(of: Targets, position: float, image: float) -> Targets:
    """Targets whose channels depend on the position and on the image, by deviations of these sizes."""
    rng = np.random.default_rng(0)
    maps_mean = rng.choice([-position, position], size=(1, 64, 2, 2))
    maps = maps_mean + image * rng.normal(size=(len(of.val), 64, 2, 2))
    return replace(of, val=replace(of.val, spatial=dict.fromkeys(of.teachers, maps)))


@pytest.mark.parametrize(("position", "image", "expected"), [(0.0, 1.0, 0.0), (1.0, 1.0, 0.43), (1.0, 0.0, 1.0)])
def test_the_position_explains_what_does_not_depend_on_the_image(
    tmp_path: Path, position: float, image: float, expected: float
) -> None:
    known = with_maps(two_teachers(tmp_path), position, image)
    scores = constant_map_scores(known.val)
    assert scores.keys() == {"colour", "mean"}
    # Four positions: their mean over a channel takes a quarter of the variance of positions away, 0.75 / 1.75 is left.
    assert list(scores.values()) == pytest.approx([expected] * 2, abs=0.05)
    assert chance(known)["score"] == pytest.approx(expected, abs=0.05)


def test_no_constant_map_explains_more(tmp_path: Path) -> None:
    split = targets(tmp_path).val
    array = np.asarray(split.spatial["colour"], np.float64)
    total = np.sum((array - array.mean((0, 2, 3), keepdims=True)) ** 2)
    best = constant_map_scores(split)["colour"]
    assert best == pytest.approx(1 - np.sum((array - array.mean(0)) ** 2) / total)
    for guess in (array[0], array.mean((0, 2, 3), keepdims=True), array.mean(0) + 0.01):
        assert 1 - np.sum((array - guess) ** 2) / total < best


def test_the_level_of_the_iou_is_that_of_the_images_that_are_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = targets(tmp_path)
    masks, classes = np.asarray(whole.val.masks), whole.mask_classes

    def level(masks: np.ndarray) -> float:
        pixels = np.bincount(masks.ravel(), minlength=classes)[:classes]
        return float(pixels.max() / pixels.sum() / (pixels > 0).sum())

    assert chance(whole)["miou"] == pytest.approx(level(masks))
    monkeypatch.setattr(tasks, "HELD_OUT_IMAGES", 5)
    assert level(masks[:5]) != pytest.approx(level(masks))
    assert chance(whole)["miou"] == pytest.approx(level(masks[:5]))
