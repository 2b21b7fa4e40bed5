"""HELP's files of latencies become the CSV file that a replay reads."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import torch

from experiments.help_latencies import checksum, convert, main
from nas.replay.nasbench201 import CELLS as PUBLISHED_CELLS
from nas.replay.published_table import column, read_csv

CELLS = list(PUBLISHED_CELLS.architectures)


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, dict[str, float]]:
    """A folder as HELP publishes it, in an order of its own, and the latency of each cell."""
    order = [cell.arch_id for cell in CELLS]
    random.Random(0).shuffle(order)
    index = {cell: at for at, cell in enumerate(order)}
    latencies = {cell: 1 + at / 1000 for cell, at in index.items()}
    (tmp_path / "latency").mkdir()
    torch.save(index, tmp_path / "str_arch2idx.pt")
    torch.save([latencies[cell] for cell in order], tmp_path / "latency/gpu_1.pt")
    torch.save(
        torch.tensor([2 * latencies[cell] for cell in order], dtype=torch.float64), tmp_path / "latency/gpu_2.pt"
    )
    return tmp_path, latencies


def test_each_cell_has_its_latency_whether_the_file_is_a_list_or_a_tensor(
    published: tuple[Path, dict[str, float]],
) -> None:
    folder, latencies = published
    digests = convert(folder, ["gpu_1", "gpu_2"], folder / "gpu.csv")
    rows = read_csv("--latency", str(folder / "gpu.csv"), "FILE.csv:COLUMN")
    for factor, name in ((1, "gpu_1_ms"), (2, "gpu_2_ms")):
        values = column("--latency", "gpu.csv", rows, name, [cell.arch_id for cell in CELLS])
        assert values == pytest.approx([factor * latencies[cell.arch_id] for cell in CELLS])
    assert digests["gpu_1_ms"] == checksum(latencies) != digests["gpu_2_ms"]


def test_other_data_than_that_of_the_published_numbers_is_told(
    published: tuple[Path, dict[str, float]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = published
    (folder / "latency/gpu_1.pt").rename(folder / "latency/titan_rtx_256.pt")
    words = [str(folder), "--columns", "titan_rtx_256", "--out", str(folder / "gpu.csv")]
    monkeypatch.setattr(sys, "argv", ["help_latencies", *words])
    main()
    assert "DIFFERENT" in capsys.readouterr().out
