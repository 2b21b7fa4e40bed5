"""The differences for which a study cannot be resumed."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

from nas.samplers import make_sampler
from nas.search.settings import command_of
from nas.storage.store import Store
from nas.study import compatibility
from nas.study.records import Objective
from nas.validation import ConfigError
from search_space import SPACES
from tests.nas.measure.networks import needs_onnxruntime
from tests.nas.study.builders import OBJECTIVES, search_config, study_info

INFO = replace(study_info(search_config()), space={k: list(v) for k, v in SPACES["micro"].choices().items()})


def test_an_unchanged_study_has_no_differences() -> None:
    assert compatibility.of_space(INFO, SPACES["micro"].choices()) == []
    assert compatibility.of_objectives(INFO, OBJECTIVES) == []


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


def test_another_build_of_the_runtime_is_another_version() -> None:
    library = ("onnxruntime", "onnxruntime-gpu")
    before = replace(INFO, environment={"torch": "2.6", "onnxruntime-gpu": "1.20"})
    assert compatibility.of_versions(before, {"torch": "2.6", "onnxruntime-gpu": "1.20"}, library) == []
    assert compatibility.of_versions(before, {"torch": "2.6", "onnxruntime": "1.20"}, library) == [
        "version of onnxruntime-gpu: 1.20 -> none",
        "version of onnxruntime: none -> 1.20",
    ]
    unrecorded = replace(INFO, environment={"torch": "2.6"})
    assert compatibility.of_versions(unrecorded, {"torch": "2.6", "onnxruntime": "1.20"}, library) == []


@needs_onnxruntime
@pytest.mark.parametrize(
    ("runtime", "recorded", "refused"),
    [
        ("onnxruntime", {"onnxruntime": "1.0"}, True),
        ("onnxruntime", {"onnxruntime": metadata.version("onnxruntime") if find_spec("onnxruntime") else ""}, False),
        ("onnxruntime", {}, False),  # of a version that did not record it
        ("eager", {"onnxruntime": "1.0"}, False),
    ],
)
def test_a_study_is_not_continued_in_another_version_of_its_runtime(
    runtime: str, recorded: dict[str, str], refused: bool, tmp_path: Path
) -> None:
    config = search_config(runtime=runtime)
    info = replace(study_info(config), environment=recorded, space=INFO.space)
    Store.create(tmp_path, info, make_sampler(config, SPACES["micro"], info.objectives))
    if refused:
        with pytest.raises(ConfigError, match=r"these differ: version of onnxruntime: 1\.0 -> \d"):
            command_of({"resume": str(tmp_path)}, "")
    else:
        assert command_of({"resume": str(tmp_path)}, "").config == config
