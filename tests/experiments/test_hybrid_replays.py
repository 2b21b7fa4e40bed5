"""Replays of the published table, and the numbers that are read off their curves."""

from __future__ import annotations

import pytest

from experiments import hybrid_replays
from experiments.hybrid_replays import first_above, replay, report


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
