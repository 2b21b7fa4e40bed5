"""Two commands never do the same work in one folder at a time: the second is refused before it begins.

That of `backbone-nas remeasure` is in tests/nas/remeasure/test_command.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from nas.plan.__main__ import main as plan
from nas.retrain.__main__ import main as retrain
from tests.nas.analysis.builders import new_store, small_study


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_a_second_retraining_of_a_study_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nas.retrain.command._work", lambda *facts: pytest.fail("it began"))
    new_store(tmp_path, small_study())
    with FileLock(tmp_path / "retraining.lock"):
        assert retrain([str(tmp_path)]) == 2
    assert refusal(capsys) == f"error: another backbone-nas retrain is working on {str(tmp_path)!r}"


def test_a_second_pilot_in_a_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nas.plan.pilot_trainings._begin", lambda *facts: pytest.fail("it began"))
    with FileLock(tmp_path / "pilot.lock"):
        assert plan(["--pilot", "--budget", "9", "--device", "cpu", "--run", str(tmp_path)]) == 2
    assert refusal(capsys) == f"error: --run: another pilot is working in {str(tmp_path)!r}"
