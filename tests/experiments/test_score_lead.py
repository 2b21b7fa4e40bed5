"""The page has the tables of speed-ups after longer training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.score_lead import retrained_searches, speedups, tables

INDEX = (Path(__file__).parents[2] / "docs/results/index.md").read_text()


def test_the_page_has_every_table_of_the_command() -> None:
    lines = INDEX.splitlines()
    assert [line for line in tables(retrained_searches()) if line not in lines] == []


def row(trial: int, before: float, after: float, ratio: float, baseline: str | None = None) -> dict[str, Any]:
    return {
        "trial": trial, "baseline": baseline, "score_of_study": before, "score": after, "ratio": ratio,
        "stopped_after": None,
    }  # fmt: skip


def test_a_speed_up_is_over_the_best_baseline_of_each_training() -> None:
    rows = {
        "candidates": [
            row(0, 0.5, 0.6, 1.0, "a"),
            row(1, 0.4, 0.7, 1.0, "b"),
            row(2, 0.51, 0.69, 4.0),
            row(3, 0.55, 0.8, 2.0),
        ]
    }
    assert speedups(rows) == (4.0, None, 2.0)
    none = {"candidates": [row(0, 0.5, 0.6, 1.0, "a"), row(2, 0.51, 0.59, 4.0)]}
    assert speedups(none) == (4.0, None, None)
