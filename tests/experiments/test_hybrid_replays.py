"""Replays of the published table, and the numbers that are read off their curves."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from experiments import hybrid_replays
from experiments.distillation.parallel import load_rows
from experiments.hybrid_replays import BUDGET, ROWS, SAMPLERS, SEEDS, first_above, replay, report

POPULATION = 20  # of NSGA-II in a search


@pytest.mark.parametrize(
    ("shares", "count"), [([0.9, 0.95], 1), ([0.2, 0.9, 0.8, 0.91, 0.95], 4), ([0.9, 0.2], None), ([0.1, 0.95], 2)]
)
def test_a_level_is_reached_where_the_curve_stays_above_it(shares: list[float], count: int | None) -> None:
    assert first_above({"shares": shares}, 0.9) == count


def test_a_search_has_its_curves_and_its_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hybrid_replays, "BUDGET", 12)
    monkeypatch.setattr(hybrid_replays, "SHOWN", (5, 12))
    rows = [replay(name, seed) for name in ("known-cost", "random") for seed in (0, 1)]
    for row in rows:
        assert len(row["shares"]) == len(row["steps"]) == len(row["seconds"]) == 12
        assert 0 < row["shares"][-1] <= 1
        assert row["seconds"] == sorted(row["seconds"])
        assert {b - a for a, b in zip(row["steps"], row["steps"][1:], strict=False)} <= {30, 90, 270}
    assert rows[0]["shares"] != rows[1]["shares"]
    report(rows)
    printed = capsys.readouterr().out
    assert "| known-cost | " in printed
    assert "of 2)" in printed


def test_the_page_has_the_tables_of_the_published_rows(capsys: pytest.CaptureFixture[str]) -> None:
    rows = load_rows(ROWS)
    assert {(row["sampler"], row["seed"]) for row in rows} == {(name, i) for name in SAMPLERS for i in range(SEEDS)}
    report(rows)
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith(tuple(f"| {name} |" for name in SAMPLERS))]
    page = (Path(__file__).parents[2] / "docs/results/hybrid_table.md").read_text()
    assert len(lines) == 3 * len(SAMPLERS) - 1
    assert [line for line in lines if line not in page] == []
    stopped = sorted(row["converged_after"] for row in rows if row["converged_after"])
    assert len(stopped) == 7
    words = "Of the 20 searches of known-cost it would have ended seven,"
    words += f" after {stopped[0]} to {stopped[-1]} evaluations"
    assert words in " ".join(page.split())


def test_the_page_says_in_how_many_seeds_nsga2_learned() -> None:
    generations = []
    for row in load_rows(ROWS):
        steps = [after - before for before, after in pairwise([0, *row["steps"]])]
        completed = [i for i, each in enumerate(steps, start=1) if each == 270]
        if row["sampler"] == "nsga2" and len(completed) >= POPULATION and completed[POPULATION - 1] < BUDGET:
            generations.append(completed[POPULATION - 1])
    first, second = sorted(generations)
    page = " ".join((Path(__file__).parents[2] / "docs/results/hybrid_table.md").read_text().split())
    assert f"**NSGA-II is random search in {SEEDS - len(generations)} of the {SEEDS} seeds.**" in page
    assert (
        f"In two seeds that was after {first} and {second} evaluations, in the others never before the last one."
        in page
    )
