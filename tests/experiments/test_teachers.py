"""What the students of the comparison of teachers are taught."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.distillation.teachers import PUBLISHED, RESULTS, Recipe, own_teacher_table, taught
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


FEWER = {  # rows of the page's table
    "untrained": "untrained",
    "10,000 images, each with the targets of another": "all, targets of other images",
    **{f"{count} images": f"all, summary cosine, {count} images" for count in ("100", "300", "1,000", "3,000")},
    "10,000 images": "all, summary cosine",
}
DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("title", FEWER)
def test_the_page_has_the_students_of_fewer_images(title: str) -> None:
    files = [RESULTS.parent / f"teachers_{name}.json" for name in ("floors", "c6e0841")]
    rows = [row for file in files for row in json.loads(file.read_text()) if row["recipe"] == FEWER[title]]
    assert sorted(row["seed"] for row in rows) == [0, 1, 2]
    metrics = [[row["metrics"][name] for row in rows] for name in ("probe", "knn", "miou")]
    retrieved = [[row["metrics"][f"retrieval/{name}"] for row in rows] for name in ("lite0", "hed", "xfeat")]
    scores = [np.mean([head["spatial"] for head in row["explained"].values()]) for row in rows]
    cells = [f"{np.mean(of):.3f} ± {np.std(of, ddof=1):.3f}" for of in (scores, *metrics, *retrieved)]
    assert f"| {title} | {' | '.join(cells)} |" in (DOCS / "explanation/distillation_score.md").read_text()
    findings = (DOCS / "findings.md").read_text()
    assert all(f"{np.mean(of):.3f}" in findings for of in metrics[:2])


def test_the_page_compares_with_each_teachers_own_student(capsys: pytest.CaptureFixture[str]) -> None:
    own_teacher_table([row for path in PUBLISHED for row in json.loads(path.read_text())])
    printed = capsys.readouterr().out.strip()
    assert len(printed.splitlines()) == 2 + 3 * 3  # three settings, three teachers
    assert printed in (DOCS / "explanation/distillation_score.md").read_text()
