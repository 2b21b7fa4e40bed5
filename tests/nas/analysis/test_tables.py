"""Every cell of a printed table stands under its heading."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from nas.analysis.evidence import gather_evidence
from nas.analysis.remeasuring import compare_remeasurement
from nas.analysis.retraining import summarize_retraining
from nas.analysis.selecting import answer
from nas.analysis.tables import show_answer, show_remeasuring, show_retraining
from tests.nas.analysis.builders import REFERENCE, remeasured, remeasured_for_retraining, retrained, small_study


class Recording(Console):
    """A console that keeps the tables that it prints."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.tables: list[Table] = []

    def print(self, *objects: Any, **settings: Any) -> None:
        self.tables += [each for each in objects if isinstance(each, Table)]


def row(table: Table, trial: int) -> dict[str, str]:
    """Return the cells of a trial's row by their headings."""
    headings = [str(column.header).replace("\n", " ") for column in table.columns]
    cells = zip(*(map(str, column.cells) for column in table.columns), strict=True)
    (found,) = [row for row in (dict(zip(headings, each, strict=True)) for each in cells) if row["trial"] == str(trial)]
    return found


def test_a_remeasured_candidate() -> None:
    study, console = small_study(), Recording()
    again = remeasured({0: 1.0, 1: 4.0, 2: 0.7, 3: 1.1, 5: 1.3})
    show_remeasuring(study, again, compare_remeasurement(study, again), console)
    assert row(console.tables[0], 2) == {
        "trial": "2",
        "architecture": study.trials[2].arch_id[:8],
        "score": "0.400",
        "ratio before": "2.00 [1.98, 2.02]",
        "ratio now": "0.70 [0.69, 0.71]",
        "rank": "2 → 5",
        "front": "front → left (behind 3)",
        "verdict": "ok",
    }
    assert row(console.tables[0], 0)["architecture"] == REFERENCE


def test_a_retrained_candidate() -> None:
    study, console = small_study(), Recording()
    scores = {1: (0.30, 0.31, 0.32), 2: (0.50, 0.51), 3: (0.505, 0.515, 0.525)}
    again = [each for n, values in scores.items() for each in retrained(n, dict(enumerate(values, 1)))]
    summary = summarize_retraining(study, again, [remeasured_for_retraining({0: 1.0, 1: 4.0, 2: 2.1, 3: 2.09})])
    assert summary is not None
    show_retraining(study, summary, console)
    assert row(console.tables[0], 2) == {
        "trial": "2",
        "architecture": study.trials[2].arch_id[:8],
        "score in the search": "0.400",
        "seeds": "2",
        "mean score, retrained": "0.5050 ± 0.0172",
        "throughput ratio": "2.10 [2.08, 2.12]",
        "chance on front": "0.63",
        "fronts": "on both",
    }


def test_a_runner_up() -> None:
    study, console = small_study({0: (0.3, 1.0), 3: (0.6, 2.0), 4: (0.595, 1.9)}), Recording()
    limits = {"min_throughput_img_s": 1895.0}
    show_answer(answer(gather_evidence(study), limits), limits, lambda candidate: [], console)
    assert row(console.tables[1], 4) == {
        "trial": "4",
        "model": study.trials[2].arch_id,
        "score": "0.5950",
        "throughput ratio": "1.90",
        "chance of highest score (assumed noise)": "33%",
        "chance within limits": "52%",
    }
