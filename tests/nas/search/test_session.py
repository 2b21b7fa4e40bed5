"""Two searches never work on one new folder."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from pathlib import Path

import pytest
from filelock import FileLock

from nas.search import settings
from nas.search.__main__ import main
from nas.search.settings import command_of

SMALL = ["--train-images", "256", "--val-images", "64", "--rung-steps", "6,12", "--device", "cpu"]


class OneSecond(datetime):
    """A clock that stands."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> OneSecond:
        return cls(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_searches_that_start_in_one_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "datetime", OneSecond)
    runs = [command_of({"device": "cpu"}, "").run for _ in range(3)]
    assert len(set(runs)) == 3
    assert all(run.is_dir() and run.name.startswith("2026-01-02-030405-") for run in runs)


def test_a_folder_in_which_another_search_starts_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nas.cache.open_study_targets", lambda *words, **more: pytest.fail("it ran teachers"))
    run = tmp_path / "run"
    run.mkdir()
    with FileLock(run / ".search.lock"):
        assert main(["--run", str(run), *SMALL]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "--run" in line
    assert str(run) in line
