"""Timings of the published table on another machine: real ones, and what a comparison says of known ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.distillation.parallel import load_rows
from experiments.hybrid_table import entries
from experiments.hybrid_timings import chosen_specs, report, time_all
from nas.replay.hybrid_rows import read_rows
from nas.study.pareto import front

ROOT = Path(__file__).parents[2]


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


def printed(name: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines that the report of a published file prints."""
    report(load_rows(ROOT / f"experiments/results/hybrid_timings_{name}.json.gz"), read_rows())
    return capsys.readouterr().out.splitlines()


def page() -> str:
    return " ".join((ROOT / "docs/results/hybrid_table.md").read_text().split())


def cells_after(lines: list[str], start: str) -> list[list[str]]:
    """Return the cells, but the first, of the table rows that begin so."""
    return [line.strip("| ").split(" | ")[1:] for line in lines if line.startswith(start)]


def least_share(lines: list[str]) -> float:
    """Return the smaller share of the hypervolume that one front has by the other's timings."""
    return min(
        float(cells[1]) for start in ("| the table |", "| this machine |") for cells in cells_after(lines, start)
    )


def test_the_page_has_the_numbers_of_the_other_machine(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed("a1", capsys)
    (cells,) = [line.strip("| ").split(" | ") for line in lines if line.endswith(" 0.929 |")]
    assert f"1.20 times what the other gives (median; 5th to 95th percentile {cells[1]} to {cells[2]})" in page()
    assert cells[0] == "1.20"
    assert f"{100 * least_share(lines):.1f} % or more of the other's hypervolume" in page()
    table, here = zip(*cells_after(lines, "| eradio_"), strict=True)
    assert "eradio_nano lead by {}, {} and {} times".format(*here) in page()
    assert "among the same 231, by {}, {} and {}.".format(*table) in page()
    assert "eradio_pico, images/s: by the table 1,308, by these timings 1,941" in lines
    assert "the reference runs 1.5 times as fast on the faster one" in page()


def test_the_page_has_the_numbers_of_onnx_runtime(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed("onnx", capsys)
    (cells,) = [line.strip("| ").split(" | ") for line in lines if line.endswith(" 0.896 |")]
    assert f"ONNX Runtime gives {cells[0]} times what PyTorch gives" in page()
    assert f"5th to 95th percentile {cells[1]} to {cells[2]}). Kendall's tau of the throughputs is 0.90" in page()
    assert "models on the front by the table's timings: 27; by these: 32; on both: 22" in lines
    assert "with attention on the front by these: 3" in lines
    assert f"Each front has {int(1000 * least_share(lines)) / 10} % or more of the other's hypervolume" in page()
    leads = [line for line in lines if line.startswith("| eradio_")]
    assert len(leads) == 3
    assert all(line in page() for line in leads)
    assert any(line.endswith("by these timings 2,089") for line in lines)
    again = printed("eager", capsys)
    assert "| 1.00 | 0.97 | 1.03 | 0.978 |" in again
    assert any(line.endswith("by these timings 1,357") for line in again)
    assert "39 of the architectures, timed again in PyTorch, have 1.00 times the table's (0.97 to 1.03)" in page()
    assert "with a tau of 0.98" in page()
    assert "1.5 times, from 1,357 images/s (39 architectures in eager PyTorch on the same days) to 2,089." in page()


def test_the_best_of_the_table_are_its_front_first() -> None:
    rows = [row for row in read_rows() if row["seed"] == 0 and row["state"] == "complete"]
    best = front([(row["scores"][-1], row["ratio"][0]) for row in rows])
    specs = {spec.arch_id for spec in chosen_specs(None, len(best))}
    assert {rows[i]["arch_id"] for i in best} <= specs
    assert len(specs) == len({*(rows[i]["arch_id"] for i in best), *(e.spec.arch_id for e in entries()[:3])})
    assert len(chosen_specs(None, None)) == len(entries())
    assert [spec.arch_id for spec in chosen_specs(5, None)] == [entry.spec.arch_id for entry in entries()[:5]]
