"""The built-in data's tasks: on features whose answer is known, and on constant ones, which score as chance says."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn import functional as F

from nas.cache.targets import Targets
from nas.distill.evaluation.probes import PixelProbe, object_features, outlines, recall_of_pairs
from nas.distill.evaluation.reference_scores import chance
from nas.distill.evaluation.tasks import (
    evaluate,
    left_out_of_classification,
    probe_images,
    student_metrics,
    teacher_features,
    teacher_metrics,
)
from nas.distill.heads import HeadDims, Student, TeacherHeads
from tests.nas.distill.known import Known
from tests.nas.distill.targets_builder import split_of, targets

BUILT_IN = {"glyph_retrieval", "figure_iou", "edge_ap"}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def built_in(folder: Path) -> Targets:
    """Targets with poses: both images of a pair are one photograph, darker and brighter."""
    poses = split_of(24, 2)
    paired = np.repeat(poses.images[::2], 2, axis=0)
    paired[1::2] //= 2
    spatial = {"colour": np.repeat(poses.spatial["colour"][::2], 2, axis=0)}
    masks = np.ones_like(np.asarray(poses.masks))
    masks[:, :10] = 0
    return replace(targets(folder), poses=replace(poses, images=paired, masks=masks, spatial=spatial, summary={}))


def student(spatial: Any) -> Student:
    heads = TeacherHeads(3, 3, {"colour": HeadDims(8, 8)}, 8, 4)
    return Student(Known(lambda images: images.mean((2, 3)), spatial), heads)


# Probes


def test_points_that_are_known_are_found_without_error() -> None:
    """Each channel holds one of the 16 points of a cell, of two kinds; a point is a pixel."""
    positive = drawn(40, 2, 16, 16) > 0.8
    features = F.pixel_unshuffle(positive.float(), 4)
    probe = PixelProbe(kinds=2)
    probe.fit(features[:20], positive[:20])
    probe.score(features[20:], positive[20:])
    assert [probe.average_precision(0), probe.best_iou(1)] == [pytest.approx(1)] * 2


def test_images_of_many_classes_have_no_probe_and_a_line_says_why(tmp_path: Path) -> None:
    whole = targets(tmp_path, train=1605)
    few, many, more, too_many = (replace(whole, num_classes=classes) for classes in (300, 321, 322, 2001))
    assert left_out_of_classification(few) is left_out_of_classification(replace(many, num_classes=None)) is None
    assert str(left_out_of_classification(many)).endswith("321 classes it takes too long; kNN uses 1,605 train images")
    assert str(left_out_of_classification(more)).endswith("kNN needs 1,610 train images, and there are 1,605")
    assert str(left_out_of_classification(too_many)).endswith("there are 2,001 classes; kNN takes up to 2,000 classes")
    assert [probe_images(each) for each in (few, many, more, too_many)] == [1500, 1605, 1500, 1500]
    metrics = [set(teacher_metrics(each, "colour")) for each in (few, many, more, too_many)]
    assert metrics == [{"knn", "probe", "miou"}, {"knn", "miou"}, {"miou"}, {"miou"}]
    assert [{"knn", "probe"} & set(chance(each)) for each in (few, many, more)] == [{"knn", "probe"}, {"knn"}, set()]
    bank, *_ = evaluate(partial(teacher_features, "colour"), many, probe_images(many))
    assert len(bank) == 1605


def test_average_precision_and_best_iou_are_those_of_all_thresholds() -> None:
    features, positive = drawn(60, 3, 4, 4), drawn(60, 2, 16, 16, seed=1) > 0.5
    positive[:, :1] |= F.interpolate(features[:, :1], 16) > 1
    probe = PixelProbe(kinds=2)
    probe.fit(features[:30], positive[:30])
    probe.score(features[30:], positive[30:])
    for kind in (0, 1):
        answers = probe.predict(features[30:], 16)[:, kind].flatten().numpy()
        truth = positive[30:, kind].flatten().numpy()
        assert probe.average_precision(kind) == pytest.approx(average_precision_score(truth, answers), abs=1e-3)
        called = [answers >= threshold for threshold in np.linspace(-0.5, 1.5, 400)]
        wanted = max((c & truth).sum() / (c | truth).sum() for c in called)
        assert probe.best_iou(kind) == pytest.approx(wanted, abs=2e-3)
    assert probe.average_precision(0) > 1.2 * positive[30:, 0].float().mean()


def test_an_outline_is_two_pixels_wide_on_both_sides_at_64_px() -> None:
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[0, :, 20:40] = 3
    columns = outlines(masks)[0, 30].nonzero()[:, 0].tolist()
    assert columns == [18, 19, 20, 21, 38, 39, 40, 41]
    masks[0, :, 40:] = 5  # another glyph
    assert outlines(masks)[0, 30].nonzero()[:, 0].tolist() == columns


def test_an_objects_features_do_not_depend_on_the_background() -> None:
    masks = torch.zeros(1, 16, 16, dtype=torch.uint8)
    masks[0, :8, :4], masks[0, :4, 4:6] = 1, 1  # two whole cells of 4 px, and half of a third
    maps = drawn(1, 2, 4, 4)
    wanted = (maps[0, :, 0, 0] + maps[0, :, 1, 0] + maps[0, :, 0, 1] / 2) / 2.5
    torch.testing.assert_close(object_features(maps, masks)[0], wanted)
    changed = maps.clone()
    changed[:, :, 2:] = 9
    torch.testing.assert_close(object_features(changed, masks), object_features(maps, masks))


def test_recall_is_the_mean_over_all_galleries() -> None:
    features = drawn(14, 3)
    centered = F.normalize(features - features.mean(0), dim=1).double()
    hits = []
    for query in range(14):
        own = centered[query] @ centered[query ^ 1]
        others = [i for i in range(14) if i % 2 != query % 2 and i != query ^ 1]
        hits += [all(centered[query] @ centered[i] < own for i in chosen) for chosen in combinations(others, 3)]
    assert recall_of_pairs(features, gallery=4) == pytest.approx(np.mean(hits))
    assert recall_of_pairs(drawn(7, 5).repeat_interleave(2, 0)) == 1


# Tasks


def test_the_built_in_data_has_its_own_tasks_and_no_classes(tmp_path: Path) -> None:
    """Masks are brightness, which a 4 x 4 thumbnail shows."""
    whole = built_in(tmp_path)
    found = student_metrics(student(lambda images: F.adaptive_avg_pool2d(images, 4)), whole, "cpu")
    assert set(found) == BUILT_IN | {"retrieval/colour"}
    levels = chance(whole)
    assert all(found[name] > 1.2 * levels[name] for name in BUILT_IN), (found, levels)
    assert set(teacher_metrics(whole, "colour")) == BUILT_IN
    assert set(teacher_metrics(targets(tmp_path), "colour")) == {"knn", "probe", "miou"}
    assert set(chance(targets(tmp_path))) == {"knn", "probe", "miou", "zero_shot", "retrieval", "score"}


def test_constant_features_score_as_chance(tmp_path: Path) -> None:
    whole = built_in(tmp_path)
    found = student_metrics(student(lambda images: torch.ones(len(images), 3, 4, 4)), whole, "cpu")
    levels = chance(whole)
    assert found["glyph_retrieval"] == pytest.approx(levels["glyph_retrieval"]) == pytest.approx(1 / 10)
    for name in ("figure_iou", "edge_ap"):
        assert found[name] == pytest.approx(levels[name], abs=0.005), "but for a point's place in its cell"
