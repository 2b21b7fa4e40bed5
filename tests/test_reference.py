"""The reference pages say what the code says: `python docs/generate.py` would not change them.

`.ci/run docs` compares all pages; two of them count networks of up to seven billion parameters and are left out here.
"""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
GENERATE: dict[str, Any] = runpy.run_path(str(ROOT / "docs/generate.py"))


@pytest.mark.parametrize("name", [name for name in GENERATE["MAKERS"] if name not in ("spaces", "teachers")])
def test_page_is_up_to_date(name: str) -> None:
    page = GENERATE["page"](name)
    assert (ROOT / f"docs/reference/{name}.md").read_text() == page, "run python docs/generate.py"


def test_every_setting_has_a_meaning() -> None:
    from nas.search.settings import SearchCommand
    from nas.study.config import DistillConfig, Group, SearchConfig
    from nas.validation import declared, flag_of

    for record in (SearchConfig, DistillConfig, Group, SearchCommand):
        with_flags = {name for name, hint in declared(record).items() if flag_of(hint)}
        assert set(GENERATE["attributes"](record)) | with_flags == declared(record).keys(), record


def test_every_column_of_a_record_has_a_meaning() -> None:
    from nas.study.records import Expectation, Measurement

    for record in (Expectation, Measurement):
        assert set(GENERATE["attributes"](record)) == {field.name for field in dataclasses.fields(record)}, record


def test_docstring_sections_are_read_by_name() -> None:
    class Example:
        """Stand for a record.

        Attributes:
            first: A number, whose text
                has a second line: with a colon.
            second: Another one.

        Raises:
            ValueError: Never.
        """

    assert GENERATE["sections"](Example) == {
        "Attributes": {"first": "A number, whose text has a second line: with a colon.", "second": "Another one."},
        "Raises": {"ValueError": "Never."},
    }
