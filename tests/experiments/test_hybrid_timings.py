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
    leads = [line.strip("| ").split(" | ")[1:] for line in lines if line.startswith("| eradio_")]
    table, here = zip(*leads, strict=True)
    assert "eradio_nano lead by {}, {} and {} times".format(*here) in page
    assert "among the same 231, by {}, {} and {}.".format(*table) in page


def test_the_page_has_the_numbers_of_the_timings_in_onnx_runtime(capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).parents[2]
    report(load_rows(root / "experiments/results/hybrid_timings_onnx.json.gz"), read_rows())
    lines = capsys.readouterr().out.splitlines()
    page = " ".join((root / "docs/results/hybrid_table.md").read_text().split())
    (cells,) = [line.strip("| ").split(" | ") for line in lines if line.endswith(" 0.896 |")]
    assert f"ONNX Runtime gives {cells[0]} times what PyTorch gives" in page
    assert f"5th to 95th percentile {cells[1]} to {cells[2]}). Kendall's tau of the throughputs is 0.90" in page
    assert "models on the front by the table's timings: 27; by these: 32; on both: 22" in lines
    shares = [float(line.split(" | ")[2].strip("| ")) for line in lines if "| this machine" in line]
    assert f"Each front has {int(1000 * min(shares)) / 10} % or more of the other's hypervolume" in page
    leads = [line for line in lines if line.startswith("| eradio_")]
    assert len(leads) == 3
    assert all(line in page for line in leads)
    report(load_rows(root / "experiments/results/hybrid_timings_eager.json.gz"), read_rows())
    assert "| 1.00 | 0.97 | 1.03 | 0.978 |" in capsys.readouterr().out
    assert (
        "39 of the architectures, timed again in PyTorch, have 1.00 times the table's (0.97 to 1.03), with a tau of"
        in page
    )


def test_the_best_of_the_table_are_its_front_first() -> None:
    rows = [row for row in read_rows() if row["seed"] == 0 and row["state"] == "complete"]
    best = front([(row["scores"][-1], row["ratio"][0]) for row in rows])
    specs = {spec.arch_id for spec in chosen_specs(None, len(best))}
    assert {rows[i]["arch_id"] for i in best} <= specs
    assert len(specs) == len({*(rows[i]["arch_id"] for i in best), *(e.spec.arch_id for e in entries()[:3])})
    assert len(chosen_specs(None, None)) == len(entries())
    assert [spec.arch_id for spec in chosen_specs(5, None)] == [entry.spec.arch_id for entry in entries()[:5]]
