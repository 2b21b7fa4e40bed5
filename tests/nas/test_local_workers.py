"""How many trials a machine runs at a time where nobody says: as many as its CPUs and its memory allow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nas import local_workers
from nas.local_workers import default_workers, limited_by_memory, search_bytes, workers_on
from nas.plan.arguments import parse
from nas.retrain.arguments import RetrainSettings
from nas.retrain.retraining_plan import plan_retraining
from nas.study.config import SearchConfig
from nas.study.records import StudyRecord
from tests.nas.study.builders import search_config, study_info

GB = 1e9


@pytest.mark.parametrize(
    ("cpus", "gigabytes", "ranks", "workers"),
    [
        (8, 64, 1, 8),
        (8, 8, 1, 7),  # a laptop: eight workers, their fork servers and the driver need 8.9 GB
        (4, 4, 1, 2),
        (2, 1, 1, 1),  # a search may be tried with too little
        (8, 64, 4, 2),
        (2, 64, 4, 1),
    ],
)
def test_a_machine_runs_as_many_trials_as_its_memory_holds(
    cpus: int, gigabytes: float, ranks: int, workers: int
) -> None:
    assert workers_on(cpus, gigabytes * GB, ranks) == workers


def test_the_workers_of_a_default_fit_into_the_memory_that_they_are_said_to_need() -> None:
    assert [workers_on(100, search_bytes(workers) + 1) for workers in range(1, 20)] == list(range(1, 20))


@pytest.mark.parametrize(("gigabytes", "workers"), [(64, 8), (5, 3)])
def test_the_default_and_its_line_follow_the_memory_of_this_machine_and_not_on_a_cluster(
    gigabytes: float, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8))
    monkeypatch.setattr(local_workers, "memory_bytes", lambda: gigabytes * GB)
    device, ranks = "cpu", SearchConfig().distill.ranks
    assert default_workers(device, ranks) == workers
    assert default_workers(device, ranks, on_cluster=True) == 8
    line = limited_by_memory(device, ranks)
    assert (f"suffices for {workers} at a time" in line and "--workers" in line) == bool(line) == (workers < 8)


def test_a_plan_and_a_retraining_run_as_many_at_a_time_as_a_search(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8))
    monkeypatch.setattr(local_workers, "memory_bytes", lambda: 4 * GB)
    for words in (["--device", "cpu"], ["--device", "cpu", "--pilot"]):
        assert parse(words).workers == 2
        assert "the memory, 4.0 GB, suffices for 2 at a time" in capsys.readouterr().err
    assert parse(["--device", "cpu", "--workers", "8"]).workers == 8
    assert capsys.readouterr().err == ""
    study = StudyRecord(study_info(search_config()), ())
    assert plan_retraining(study, (), RetrainSettings(Path("run"), device="cpu")).workers == 2
    assert plan_retraining(study, (), RetrainSettings(Path("run"), device="cpu", workers=5)).workers == 5
