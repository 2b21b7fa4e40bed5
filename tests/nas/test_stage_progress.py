"""The lines of a stage's progress where there is no terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from nas.stage_progress import StageProgress


def test_stages_without_a_terminal_are_a_line_at_each_end_and_one_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 0.0
    monkeypatch.setattr("nas.stage_progress.time.monotonic", lambda: now_s)
    shown = io.StringIO()
    progress = StageProgress(Console(file=shown, width=200))
    for now_s in range(0, 25):
        progress("all", now_s, 40)
        progress("part", now_s % 8 + 1, 8)
    assert shown.getvalue().splitlines() == [
        "all: 0/40",
        "part: 8/8",
        "all: 10/40 ETA 0:30",
        "part: 8/8",
        "all: 20/40 ETA 0:20",
        "part: 8/8",
    ]
