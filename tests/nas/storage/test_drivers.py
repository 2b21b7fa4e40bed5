"""The driver of a study, killed with SIGKILL like its database: SQLite and PostgreSQL."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from experiments.benchmarks.postgres import PASSWORD
from experiments.chaos.invariants import read_trials
from experiments.chaos.loop_study import LoopStudy, events, kill_driver, loop_study, undisturbed
from nas.storage.store import Store
from tests.nas.storage.postgres import need_postgres
from tests.waiting import PATIENCE_S, until

ENDLESS = 100_000  # trials: no kill comes too late


def let_work(study: LoopStudy) -> None:
    """Wait until the driver has done something more."""
    happened = len(events(study.run_dir)) + study.chance.randint(1, 15)
    until(lambda: len(events(study.run_dir)) >= happened)


def end(study: LoopStudy, folder: Path) -> None:
    """Let the next driver end the study, and hold that it is whole and like an undisturbed one."""
    budget = len(read_trials(study.source)) + 20
    with Store.open(study.run_dir) as store:
        store.update_info(lambda info: replace(info, config={**info.config, "budget": budget}))
    kill_driver(study)
    study.witness.architectures = undisturbed(folder, budget)
    study.end(PATIENCE_S)
    assert study.witness.notes == []
    assert sum(trial.ended for trial in study.witness.ended.values()) >= budget


def test_killed_drivers_lose_nothing_and_run_nothing_twice(tmp_path: Path) -> None:
    with loop_study(tmp_path, ENDLESS, 0.03, random.Random(0)) as study:
        study.start_driver()
        for _ in range(4):
            let_work(study)
            assert kill_driver(study)
            study.look()
        end(study, tmp_path)
    assert study.cut_off() <= 5


@pytest.mark.slow
@pytest.mark.postgres
def test_a_study_outlives_kills_of_its_database_and_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_postgres()
    monkeypatch.setenv("PGPASSWORD", PASSWORD)  # so that it is restored
    with loop_study(tmp_path, ENDLESS, 0.04, random.Random(0), postgres=True) as study:
        assert study.database is not None

        def said(words: str, since: int) -> bool:
            return any(words in event.get("line", "") for event in events(study.run_dir)[since:])

        study.start_driver()
        for _ in range(2):
            let_work(study)
            before = len(events(study.run_dir))
            study.database.kill()
            until(partial(said, " unavailable", before))
            study.database.start()
            until(partial(said, "available again", before))
            let_work(study)
            assert kill_driver(study)
            study.look()
        end(study, tmp_path)
    assert PASSWORD not in "".join(path.read_text() for path in study.run_dir.iterdir() if path.is_file())
