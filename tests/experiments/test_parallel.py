"""Trainings that an experiment lacks run in processes, and end with it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from experiments.distillation.parallel import load_rows, train_missing


def job(number: int, folder: Path) -> dict[str, Any]:
    """Leave a mark; the third job fails."""
    (folder / str(number)).touch()
    if number == 2:
        raise RuntimeError("no memory")
    time.sleep(0.05)
    return {"source": "test", "arch_id": str(number), "seed": 0, "scores": [0.5]}


def test_after_an_error_what_has_not_begun_never_does(tmp_path: Path) -> None:
    path, marks = tmp_path / "rows.json.gz", tmp_path / "marks"
    marks.mkdir()
    with pytest.raises(RuntimeError, match="no memory"):
        train_missing(job, [(number, marks) for number in range(100)], [], path, 1)
    assert [row["arch_id"] for row in load_rows(path)] == ["0", "1"]
    assert len(list(marks.iterdir())) < 20
