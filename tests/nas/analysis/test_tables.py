"""Every cell of a printed table stands under its heading."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from nas.analysis.evidence import gather_evidence
from nas.analysis.remeasuring import compare_remeasurement
from nas.analysis.retraining import retraining_json, summarize_retraining
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


def test_a_baseline_has_its_own_seeds_and_interval() -> None:
    """It was retrained with more seeds than the candidates, and scatters ten times as much."""
    study, console = small_study(), Recording()
    scores = {0: (0.30, 0.40, 0.50, 0.60), 1: (0.30, 0.31), 2: (0.50, 0.51), 3: (0.505, 0.515)}
    again = [each for n, values in scores.items() for each in retrained(n, dict(enumerate(values, 1)))]
    timings = remeasured_for_retraining({0: 1.0, 1: 4.0, 2: 2.1, 3: 2.09})
    summary = summarize_retraining(study, again, [timings])
    assert summary is not None
    assert summary.scatter.baselines is not None
    half = summary.scatter.baselines.half_width(scores[0])
    assert half == pytest.approx(3.182 * 0.1291 / 2, rel=1e-3)  # Student's t of 3 degrees of freedom
    show_retraining(study, summary, console)
    assert console.tables[0].title == "retraining: 90 steps, seeds 1, 2, of baselines 1, 2, 3, 4"
    assert row(console.tables[0], 0)["mean score, retrained"] == f"0.4500 ± {half:.4f}"
    plain = retraining_json(study, summary)
    assert {c["trial"]: c["half_width"] for c in plain["candidates"]}[0] == half
    assert not any("seed 3" in correlation["between"] for correlation in plain["correlations"])

    found = answer(gather_evidence(study, again, [timings]), {})
    drawn = {c.trial.number: c.chance_best or 0.0 for c in (found.best, *found.runners_up) if c is not None}
    assert drawn[0] > 0.15, "its true score may be far above its mean"


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
