"""Timings of the published table on another machine: real ones, and what a comparison says of known ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.distillation.parallel import load_rows
from experiments.hybrid_table import entries
from experiments.hybrid_timings import report, time_all
from nas.replay.hybrid_rows import read_rows


def first_rows(count: int) -> list[dict[str, Any]]:
    return [row for row in read_rows() if row["seed"] == 0][:count]


def test_an_architecture_is_timed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "timings.json.gz"
    for _ in range(2):
        time_all(out, "cpu", "eager", [entries()[0].spec])
    (row,) = load_rows(out)
    assert row["arch_id"] == entries()[0].spec.arch_id
    assert row["ratio"][1] < row["ratio"][0] < row["ratio"][2]
    assert row["img_s"] > 0
    assert capsys.readouterr().out.count("ETA") == 1


def test_twice_the_throughput_is_another_ratio_and_the_same_front(capsys: pytest.CaptureFixture[str]) -> None:
    table = first_rows(50)
    report([{"arch_id": row["arch_id"], "ratio": [2 * row["ratio"][0]]} for row in table], table)
    printed = capsys.readouterr().out
    assert "| 2.00 | 2.00 | 2.00 | 1.000 |" in printed
    assert "| the table | this machine | 1.0000 |" in printed
    assert "| this machine | the table | 1.0000 |" in printed


def test_the_opposite_order_is_another_front(capsys: pytest.CaptureFixture[str]) -> None:
    table = first_rows(50)
    report([{"arch_id": row["arch_id"], "ratio": [1 / row["ratio"][0]]} for row in table], table)
    printed = capsys.readouterr().out
    assert "-1.000 |" in printed
    assert "| the table | this machine | 1.0000 |" not in printed


def test_the_page_has_the_numbers_of_the_published_timings(capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).parents[2]
    report(load_rows(root / "experiments/results/hybrid_timings_a1.json.gz"), read_rows())
    lines = capsys.readouterr().out.splitlines()
    page = " ".join((root / "docs/results/hybrid_table.md").read_text().split())
    (cells,) = [line.strip("| ").split(" | ") for line in lines if line.endswith(" 0.929 |")]
    assert (
        f"gives {cells[0]} times what the other gives (median; 5th to 95th percentile {cells[1]} to {cells[2]})" in page
    )
    shares = [float(line.split(" | ")[2].strip("| ")) for line in lines if "| this machine" in line]
    assert f"{100 * min(shares):.1f} % or more of the other's hypervolume" in page
