"""Workers that misbehave on a real local Ray: stopped, hanging, dying, sending nonsense. No training, so no torch."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nas.failures import Failure
from nas.records import RungResult, TrialRecord, TrialState
from nas.runner import Places, run_study
from nas.running.nodes import NodesError
from nas.samplers import make_sampler
from nas.store import Store
from nas.study import StudyLoop
from search_space import SPACES
from tests.nas.study_builders import OBJECTIVES, measurement, search_config, study_info

LIMIT_S = 4.0


def rung_in(process: int) -> RungResult:
    return RungResult(0, 10, 0.5, {"lite0": {"spatial": 0.5}}, {}, {"process": process}, 1.0)


def misbehaving(record: TrialRecord, places: Places) -> Iterator[TrialRecord]:
    """Stages of a trial, by its number; "process" among the metrics is where they ran."""
    match record.number, record.tries:
        case 0, 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        case 1, 1:
            re.match(r"(a+)+$", "a" * 60 + "b")  # years in C, with the lock of the interpreter
        case 2, _:
            yield replace(record, measurement=measurement(1.0))
            yield replace(record, rungs=(replace(rung_in(0), metrics={"knn": lambda: None}),))  # type: ignore[dict-item]
        case 3, 1:
            (Path(places.samples_dir) / "spoiled").write_text(str(os.getpid()))
            yield replace(record, state=TrialState.FAILED, failure=Failure.MEMORY_SHARED, reason="no memory")
            return
        case 4, _:
            os.kill(os.getpid(), signal.SIGKILL)
        case 5, _:
            raise ValueError("nobody expected this")
    record = replace(record, measurement=record.measurement or measurement(1.0))
    yield record
    yield replace(record, rungs=(rung_in(os.getpid()),), state=TrialState.COMPLETE)


def places_in(folder: Path, config: str) -> Places:
    names = ("samples_dir", "weights_dir", "pictures_dir", "checkpoint_dir")
    for name in names:
        (folder / name).mkdir()
    folders = {name: str(folder / name) for name in names}
    return Places(config=config, targets_dir="", train_threads=1, measure_threads=1, **folders)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[int, TrialRecord], Path]:
    folder = tmp_path_factory.mktemp("misbehaving")
    config = search_config(budget=6, baselines=(), sampler="random", distill=search_config().distill)
    store = Store.create(
        folder / "run", study_info(config), make_sampler(search_config(sampler="random"), SPACES["micro"], OBJECTIVES)
    )
    places = places_in(folder, json.dumps(config.to_dict()))
    run_study(StudyLoop(store), places, 2, time_limit_s=LIMIT_S, stages=misbehaving)
    return {trial.number: trial for trial in store.trials()}, folder


Found = tuple[dict[int, TrialRecord], Path]


@pytest.mark.parametrize("number", [0, 1], ids=["stopped", "hanging in C"])
def test_a_worker_that_hangs_is_killed_and_its_trial_run_once_more(study: Found, number: int) -> None:
    trial = study[0][number]
    assert (trial.state, trial.tries, trial.failure) == (TrialState.COMPLETE, 2, Failure.HANG)


def test_a_result_that_cannot_be_sent_is_a_record_and_is_not_tried_again(study: Found) -> None:
    trial = study[0][2]
    assert (trial.state, trial.tries, trial.failure) == (TrialState.FAILED, 1, Failure.UNPICKLABLE)
    assert "function" in (trial.reason or "")


def test_a_process_that_ran_out_of_memory_is_not_used_again(study: Found) -> None:
    trials, folder = study
    trial, spoiled = trials[3], int((folder / "samples_dir" / "spoiled").read_text())
    assert (trial.state, trial.tries, trial.failure) == (TrialState.COMPLETE, 2, Failure.MEMORY_SHARED)
    assert trial.rungs[-1].metrics["process"] != spoiled
    assert spoiled not in {t.rungs[-1].metrics["process"] for t in trials.values() if t.number > 3 and t.rungs}


def test_a_trial_that_kills_its_worker_twice_has_failed(study: Found) -> None:
    trial = study[0][4]
    assert (trial.state, trial.tries, trial.failure) == (TrialState.FAILED, 2, Failure.LOST_WORKER)
    assert (trial.reason or "").startswith("the worker process died: ")


def test_an_error_that_nobody_caught_is_its_record(study: Found) -> None:
    trial = study[0][5]
    assert (trial.state, trial.tries, trial.failure) == (TrialState.FAILED, 1, Failure.ERROR)
    assert "nobody expected this" in (trial.reason or "")


def test_the_study_goes_on_in_the_same_processes(study: Found) -> None:
    trials, _ = study
    assert sum(trial.counts for trial in trials.values()) == 6
    last = [trial.rungs[-1].metrics["process"] for trial in trials.values() if trial.number > 5]
    assert last, "more trials than misbehave"
    for process in {trial.rungs[-1].metrics["process"] for trial in trials.values() if trial.rungs}:
        assert not stopped_or_alive(int(process)), "a worker outlived its study"


def stopped_or_alive(process: int) -> bool:
    """Whether a process is there a while later."""
    for _ in range(50):
        if not Path(f"/proc/{process}/cmdline").exists():
            return False
        time.sleep(0.1)
    return True


def test_a_study_does_not_go_on_on_another_kind_of_device(tmp_path: Path) -> None:
    config = search_config(budget=1, baselines=(), sampler="random")
    info = replace(study_info(config), environment={"device": "cpu", "cpu": "Z80", "cpus": 1})
    store = Store.create(
        tmp_path / "run", info, make_sampler(search_config(sampler="random"), SPACES["micro"], OBJECTIVES)
    )
    with pytest.raises(NodesError, match="measured on Z80, 1 CPUs, here is "):
        run_study(StudyLoop(store), places_in(tmp_path, json.dumps(config.to_dict())), 1, stages=misbehaving)
