"""Several drivers on one study, killed with SIGKILL like their database: SQLite and PostgreSQL."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from experiments.benchmarks.chaos import Chaos, chaos, check, events, undisturbed
from experiments.benchmarks.postgres import PASSWORD, NoServer, binaries
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


def shares(study: Chaos) -> Counter[int]:
    """Return the number of trials that each driver ran."""
    return Counter(event["pid"] for event in events(study.run_dir) if event["what"] == "runs")


def test_two_drivers_share_a_study_of_trials_of_no_length(tmp_path: Path, postgres: bool) -> None:
    """Both ask for trials all the time: for baselines, the end of the budget, the same architecture."""
    with chaos(tmp_path, budget=40, stage_s=0.0, postgres=postgres) as study:
        study.run(kills=0, drivers=2, chance=random.Random(0), window_s=0.0)
        totals = check(study, undisturbed(tmp_path, budget=40))
        assert totals["trials cut off and run again"] == 0, "a trial of a living driver was taken over"
        assert len(shares(study)) == 2
        assert min(shares(study).values()) >= 5


def test_killed_drivers_lose_nothing_and_run_nothing_twice(tmp_path: Path) -> None:
    with chaos(tmp_path, budget=60, stage_s=0.03) as study:
        study.run(kills=4, drivers=1, chance=random.Random(), window_s=1.0)
        totals = check(study, undisturbed(tmp_path, budget=60))
    assert totals["kills"] == {"driver": 4}
    assert totals["trials cut off and run again"] <= 4


@pytest.mark.parametrize("postgres", ["postgresql"], indirect=True)
def test_two_drivers_outlive_kills_of_their_database_and_of_each_other(tmp_path: Path, postgres: bool) -> None:
    chance = random.Random()
    with chaos(tmp_path, budget=100, stage_s=0.04, postgres=postgres) as study:
        study.begin(drivers=2)
        for kill in (study.kill_database, study.kill_driver, study.kill_database):
            time.sleep(chance.uniform(0.1, 1.0))
            kill(chance)
        study.end(timeout_s=PATIENCE_S)
        totals = check(study, undisturbed(tmp_path, budget=100))
    assert totals["kills"] == {"driver": 1, "database": 2}
    notices = [event["line"] for event in events(study.run_dir) if event["what"] == "says"]
    assert any("unavailable" in line for line in notices)
    assert any("available again" in line for line in notices)
    assert PASSWORD not in "".join(path.read_text() for path in study.run_dir.iterdir() if path.is_file())
