"""The page on early stopping has what the simulation of a first wave prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import first_wave
from experiments.first_wave import simulated, table

PAGE = Path(__file__).parents[2] / "docs/explanation/early_stopping.md"


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_page_has_the_table() -> None:
    lines = PAGE.read_text().splitlines()
    assert [line for line in table() if line not in lines] == []


def test_a_wave_of_many_workers_trains_little_more_than_two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    few, share = simulated(64, 2, seed=0)
    many, share_of_many = simulated(64, 64, seed=0)
    assert few < many < 1.5 * few
    assert 0.9 < share <= 1.01
    assert 0.9 < share_of_many <= 1.01
    monkeypatch.setattr(first_wave, "SEARCHES", ((16, 2),))
    monkeypatch.setattr(first_wave, "SEEDS", 1)
    assert table()[-1].startswith("| 16 | 2 | ")
