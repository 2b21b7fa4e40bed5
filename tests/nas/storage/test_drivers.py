"""Several drivers on one study, killed with SIGKILL like their database: SQLite and PostgreSQL."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from experiments.benchmarks.postgres import PASSWORD, NoServer, binaries
from experiments.chaos.loop_study import LoopStudy, events, kill_database, kill_driver, loop_study, undisturbed
from tests.waiting import PATIENCE_S


@pytest.fixture(params=["sqlite", "postgresql"])
def postgres(request: pytest.FixtureRequest) -> bool:
    needed = bool(request.param == "postgresql")
    if needed:
        try:
            binaries()
        except NoServer as error:
            pytest.skip(str(error))
    return needed


def shares(study: LoopStudy) -> Counter[int]:
    """Return the number of trials that each driver ran."""
    return Counter(event["pid"] for event in events(study.run_dir) if event["what"] == "runs")


def end(study: LoopStudy, folder: Path, budget: int) -> None:
    """Let the study end, and hold that it is whole and like an undisturbed one."""
    study.witness.architectures = undisturbed(folder, budget)
    study.end(PATIENCE_S)
    assert study.witness.notes == []
    assert sum(trial.ended for trial in study.witness.ended.values()) >= budget


def test_two_drivers_share_a_study_of_trials_of_no_length(tmp_path: Path, postgres: bool) -> None:
    """Both ask for trials all the time: for baselines, the end of the budget, the same architecture."""
    with loop_study(tmp_path, 40, 0.0, random.Random(0), postgres) as study:
        study.begin(drivers=2)
        end(study, tmp_path, 40)
    assert study.cut_off() == 0, "a trial of a living driver was taken over"
    assert len(shares(study)) == 2
    assert min(shares(study).values()) >= 5


def test_killed_drivers_lose_nothing_and_run_nothing_twice(tmp_path: Path) -> None:
    chance = random.Random()
    with loop_study(tmp_path, 60, 0.03, chance) as study:
        study.begin(drivers=1)
        for _ in range(4):
            time.sleep(chance.uniform(0, 1))
            assert kill_driver(study)
            study.look()
        end(study, tmp_path, 60)
    assert study.cut_off() <= 4


@pytest.mark.parametrize("postgres", ["postgresql"], indirect=True)
def test_two_drivers_outlive_kills_of_their_database_and_of_each_other(tmp_path: Path, postgres: bool) -> None:
    chance = random.Random()
    with loop_study(tmp_path, 100, 0.04, chance, postgres) as study:
        study.begin(drivers=2)
        for kill in (kill_database, kill_driver, kill_database):
            time.sleep(chance.uniform(0.1, 1.0))
            assert kill(study)
            study.look()
        end(study, tmp_path, 100)
    notices = [event["line"] for event in events(study.run_dir) if event["what"] == "says"]
    assert any("unavailable" in line for line in notices)
    assert any("available again" in line for line in notices)
    assert PASSWORD not in "".join(path.read_text() for path in study.run_dir.iterdir() if path.is_file())
