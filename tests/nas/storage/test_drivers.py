"""The driver of a study, killed with SIGKILL like its database: SQLite and PostgreSQL."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from experiments.benchmarks.postgres import PASSWORD, NoServer, binaries
from experiments.chaos.loop_study import LoopStudy, events, kill_database, kill_driver, loop_study, undisturbed
from tests.waiting import PATIENCE_S


@pytest.fixture
def postgres() -> bool:
    try:
        binaries()
    except NoServer as error:
        pytest.skip(str(error))
    return True


def end(study: LoopStudy, folder: Path, budget: int) -> None:
    """Let the study end, and hold that it is whole and like an undisturbed one."""
    study.witness.architectures = undisturbed(folder, budget)
    study.end(PATIENCE_S)
    assert study.witness.notes == []
    assert sum(trial.ended for trial in study.witness.ended.values()) >= budget


def test_killed_drivers_lose_nothing_and_run_nothing_twice(tmp_path: Path) -> None:
    chance = random.Random()
    with loop_study(tmp_path, 60, 0.03, chance) as study:
        study.start_driver()
        for _ in range(4):
            time.sleep(chance.uniform(0, 1))
            assert kill_driver(study)
            study.look()
        end(study, tmp_path, 60)
    assert study.cut_off() <= 4


def test_a_study_outlives_kills_of_its_database_and_its_driver(tmp_path: Path, postgres: bool) -> None:
    chance = random.Random()
    with loop_study(tmp_path, 100, 0.04, chance, postgres) as study:
        study.start_driver()
        for kill in (kill_database, kill_driver, kill_database):
            time.sleep(chance.uniform(0.1, 1.0))
            assert kill(study)
            study.look()
        end(study, tmp_path, 100)
    notices = [event["line"] for event in events(study.run_dir) if event["what"] == "says"]
    assert any("unavailable" in line for line in notices)
    assert any("available again" in line for line in notices)
    assert PASSWORD not in "".join(path.read_text() for path in study.run_dir.iterdir() if path.is_file())
