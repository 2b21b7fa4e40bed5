"""What the students of the comparison of teachers are taught."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.distillation.teachers import Recipe, taught
from tests.nas.distill.targets_builder import two_teachers


def test_a_student_of_few_images_sees_the_first_ones_with_their_targets(tmp_path: Path) -> None:
    every = two_teachers(tmp_path)
    few = taught(every, Recipe(("colour",), images=10)).train
    assert list(few.spatial) == ["colour"]
    for part, whole in ((few.images, every.train.images), (few.summary["colour"], every.train.summary["colour"])):
        np.testing.assert_array_equal(part, whole[:10])
    assert len(few) == len(few.labels) == len(few.masks) == len(few.spatial["colour"]) == 10


def test_mixed_targets_are_those_of_other_images_and_stay_together(tmp_path: Path) -> None:
    every = two_teachers(tmp_path)
    mixed = taught(every, Recipe(("colour", "mean"), mixed=True))
    np.testing.assert_array_equal(mixed.train.images, every.train.images)
    np.testing.assert_array_equal(mixed.val.spatial["mean"], every.val.spatial["mean"])
    rows = {row.tobytes(): i for i, row in enumerate(np.asarray(every.train.spatial["colour"]))}
    owners = np.array([rows[row.tobytes()] for row in mixed.train.spatial["colour"]])
    assert len(set(owners)) == len(rows)  # every target has an image; a few crops of the photographs are alike
    assert np.mean(owners == np.arange(len(owners))) < 0.1
    np.testing.assert_array_equal(mixed.train.summary["colour"], np.asarray(every.train.summary["colour"])[owners])
    np.testing.assert_array_equal(mixed.train.spatial["mean"], np.asarray(every.train.spatial["mean"])[owners])
