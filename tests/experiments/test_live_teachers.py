"""The table of live teachers is that of the rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.benchmarks.live_teachers import RESULTS, STUDENTS, TEACHERS, report
from experiments.distillation.parallel import load_rows

PAGE = Path(__file__).parents[2] / "docs" / "results" / "index.md"


def test_the_published_times_are_those_of_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    report(load_rows(RESULTS))
    printed = capsys.readouterr().out.strip()
    assert len(printed.splitlines()) == 2 + len(STUDENTS) * len(TEACHERS)
    assert printed in PAGE.read_text()
