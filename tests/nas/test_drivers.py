"""Several real drivers on one study, killed with kill -9 as is their database: SQLite and PostgreSQL."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.benchmarks.chaos import Chaos, chaos, check, events, undisturbed
from experiments.benchmarks.postgres import NoServer, binaries


@pytest.fixture(params=["sqlite", "postgresql"])
def postgres(request: pytest.FixtureRequest) -> Iterator[bool]:
    wanted = bool(request.param == "postgresql")
    if wanted:
        try:
            binaries()
        except NoServer as error:
            pytest.skip(str(error))
    yield wanted


def shares(study: Chaos) -> Counter[int]:
    """Driver -> trials that it ran."""
    return Counter(event["pid"] for event in events(study.run_dir) if event["what"] == "runs")


def test_two_drivers_share_a_study_of_trials_of_no_length(tmp_path: Path, postgres: bool) -> None:
    """Both are at the asks all the time: baselines, the last of the budget, the same architecture."""
    with chaos(tmp_path, budget=40, stage_s=0.0, postgres=postgres) as study:
        study.run(kills=0, drivers=2, chance=random.Random(0), window_s=0.0)
        found = check(study, undisturbed(tmp_path, budget=40))
        assert found["trials cut off and run again"] == 0, "a living driver's trial was taken over"
        assert len(shares(study)) == 2
        assert min(shares(study).values()) >= 5
