"""The cost of blocks: rows that are kept once, and a table on the page that has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.benchmarks import block_cost
from experiments.distillation.parallel import load_rows, save_rows

PAGE = Path(__file__).parents[2] / "docs/results/index.md"
SETTINGS = [(side, mode) for side in (14, 7) for mode in ("eager", "compiled")]


def test_a_block_timed_again_replaces_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(block_cost, "RESULTS", tmp_path / "rows.json")
    words = ["--map", "4", "--width", "64", "--batch", "1", "--seconds", "0.2", "--save", "--blocks", "basic"]
    for blocks in (["c2f"], []):
        block_cost.main(words + blocks)
    rows = load_rows(tmp_path / "rows.json")
    assert [row["block"] for row in rows] == ["basic", "c2f"]
    for row in rows:
        assert row["training"][1] < row["training"][0] < row["training"][2]
        assert row["mmacs"] > 0
    # One convolution of 3 x 3 in each half of a basic block of 64 channels on 4 x 4 places, two blocks.
    assert rows[0]["mmacs"] == pytest.approx(2 * 2 * 9 * 64 * 64 * 16 / 1e6, abs=0.05)
    save_rows(tmp_path / "rows.json", [rows[0], {**rows[0], "map": 5}, rows[1]])
    capsys.readouterr()
    block_cost.main(["--report"])
    printed = capsys.readouterr().out
    assert printed.count("time per MAC") == 2 * 2  # two columns of two settings
    assert printed.count("map 4, ") == printed.count("map 5, ") == 1
    assert printed.index("| c2f |") < printed.index("map 5, ")


def test_the_page_has_the_published_costs() -> None:
    rows = {(row["map"], row["mode"], row["block"]): row for row in load_rows(block_cost.RESULTS)}
    page = PAGE.read_text()
    blocks = dict.fromkeys(block for _, _, block in rows)
    assert set(blocks) == set(block_cost.stages(64, 7))
    assert len(rows) == len(SETTINGS) * len(blocks)
    for block in blocks:
        costs = [rows[*setting, block][kind][0] for setting in SETTINGS for kind in block_cost.KINDS]
        assert f"| {block} | " + " | ".join(f"{cost:.2f}" for cost in costs) + " |" in page


def test_the_page_has_the_agreement_of_eager_and_compiled(capsys: pytest.CaptureFixture[str]) -> None:
    block_cost.main(["--report"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("map ")]
    assert lines == [
        "map 14, inference: tau of eager and compiled 0.73, largest change 11%",
        "map 14, training: tau of eager and compiled 0.80, largest change 18%",
        "map 7, inference: tau of eager and compiled 0.88, largest change 5%",
        "map 7, training: tau of eager and compiled 0.51, largest change 23%",
    ]
    page = " ".join(PAGE.read_text().split())
    assert "is 0.73 and 0.88 for inference (14 x 14 and 7 x 7), and 0.80 and 0.51 for training steps" in page
    assert "by 11 % at most in inference, and by up to 23 % in training steps" in page
