"""How exact predicted throughputs are: the page's numbers, and the errors of a search."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.predicted_throughput import searched_errors, table_row
from nas.study.loop import StudyLoop
from tests.nas.study.builders import search_config
from tests.nas.study.searches import drive, new_store

PAGE = Path(__file__).parents[2] / "docs/explanation/sampler.md"


@pytest.mark.parametrize("name", ["eager (A, slower)", "eager (A, faster)", "ONNX Runtime"])
def test_the_page_has_what_the_command_prints(name: str) -> None:
    assert table_row(name, 20) in PAGE.read_text()


def test_models_of_a_search_are_predicted_from_those_before_them(tmp_path: Path) -> None:
    """Its throughputs are in proportion to MACs, and none has times of stages."""
    store = new_store(tmp_path, search_config(sampler="random", budget=26, baselines=(), measure_first=True))
    with store:
        drive(StudyLoop(store))
    errors = searched_errors(tmp_path, stages=True)
    assert {name: len(of.errors) for name, of in errors.items()} == {"10 to 19": 16}
    assert 0 < max(errors["10 to 19"].errors) < 1
    assert errors == searched_errors(tmp_path, stages=False)
