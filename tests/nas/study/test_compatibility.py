"""The differences for which a study cannot be resumed."""

from __future__ import annotations

from dataclasses import replace

from nas.study import compatibility
from nas.study.records import Objective
from search_space import SPACES
from tests.nas.study.builders import OBJECTIVES, search_config, study_info

INFO = replace(study_info(search_config()), space={k: list(v) for k, v in SPACES["micro"].choices().items()})


def test_an_unchanged_study_has_no_differences() -> None:
    assert compatibility.of_space(INFO, SPACES["micro"].choices()) == []
    assert compatibility.of_objectives(INFO, OBJECTIVES) == []
    assert compatibility.of_targets(INFO, {"lite0": "f"}, "f") == []


def test_a_changed_parameter_is_named_with_its_choices() -> None:
    name, *_ = INFO.space
    before = {**INFO.space, name: [1, 2], "gone": ["a"]}
    now = {**INFO.space, name: (1, 2, 3), "new": (True,)}
    assert compatibility.of_space(replace(INFO, space=before), now) == [
        f"space micro: {name}: [1, 2] -> [1, 2, 3]",
        'space micro: gone: ["a"] -> none',
        "space micro: new: none -> [true]",
    ]


def test_objectives_differ_in_their_reference_and_not_in_their_label() -> None:
    other = [replace(OBJECTIVES[0], label="new label"), Objective("throughput", "", "x", reference=0.25, log=True)]
    assert compatibility.of_objectives(INFO, other) == [
        "objective throughput: [0.125, true, false] -> [0.25, true, false]"
    ]


def test_versions_are_compared_if_the_study_has_them() -> None:
    before = replace(INFO, environment={"torch": "2.6", "timm": "1.0.15", "python": "3.11"})
    assert compatibility.of_versions(before, {"torch": "2.6", "timm": "1.0.15", "backbone-nas": "2"}) == []
    assert compatibility.of_versions(before, {"torch": "2.7", "timm": "1.0.15"}) == ["version of torch: 2.6 -> 2.7"]


def test_teachers_and_images_are_compared_by_fingerprint() -> None:
    assert compatibility.of_targets(INFO, {"xfeat": "a" * 64}, "b" * 64) == [
        "teacher lite0: f -> none",
        "teacher xfeat: none -> aaaaaaaaaaaa",
        "images builtin: f -> bbbbbbbbbbbb",
    ]
