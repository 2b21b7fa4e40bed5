"""Sessions of one study, one after another."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

from nas.samplers import make_sampler
from nas.storage.store import Store
from nas.study.ending import is_open
from nas.study.failures import Failure
from nas.study.loop import OUT_OF_TIME, StudyLoop
from nas.study.records import TrialRecord, TrialState
from reports.search_course import SearchState, search_state
from search_space import SPACES
from tests.nas.study.builders import OBJECTIVES, measurement, rung, search_config
from tests.nas.study.searches import new_store, reopen, work


def resumed(folder: Path, clock: float = 0.0) -> StudyLoop:
    """Open the study in another session, as after a kill of the driver."""
    return StudyLoop(
        Store.open(folder, make_sampler(search_config(sampler="random"), SPACES["micro"], OBJECTIVES)),
        clock=lambda: clock,
    )


def next_trial(loop: StudyLoop) -> TrialRecord:
    record = loop.next_trial()
    assert record is not None
    return record


def begun(loop: StudyLoop, score: float) -> TrialRecord:
    """Start a trial and pass its first rung."""
    record = replace(next_trial(loop), measurement=measurement(1.0), params=1, macs=1)
    loop.report(record)
    passed = replace(record, rungs=(rung(0, score),))
    assert loop.report(passed), "the first trials always continue"
    return passed


def should_continue(loop: StudyLoop, score: float, ratio: float) -> bool:
    """Return the loop's decision on another trial after its first rung."""
    return loop.report(replace(next_trial(loop), measurement=measurement(ratio), rungs=(rung(0, score),)))


@pytest.mark.parametrize("killed", ["worker", "driver"])
def test_two_kills_in_a_row_change_no_decision(tmp_path: Path, killed: str) -> None:
    """Neither of the trial that was cut off, nor of those that were measured against it meanwhile."""
    loop = StudyLoop(new_store(tmp_path, search_config(budget=9, baselines=())))
    first = begun(loop, 0.1)
    if killed == "worker":
        loop.report_lost(first.number, Failure.LOST_WORKER, "gone")
    else:
        loop = resumed(tmp_path)
    again = next_trial(loop)
    assert (again.number, again.rungs) == (first.number, ())
    loop.report(replace(again, measurement=first.measurement))
    assert should_continue(loop, 0.5, 3.0)
    assert not should_continue(loop, 0.2, 1.2)
    assert should_continue(loop, 0.45, 2.0), "the second of four; it would not be among the best third of three"
    loop = resumed(tmp_path)
    record = next_trial(loop)
    assert record.number == first.number
    assert loop.report(replace(record, rungs=first.rungs)), "it had passed"
    loop.report(replace(record, rungs=(*first.rungs, rung(1, 0.1)), state=TrialState.COMPLETE))
    assert loop.trials[first.number].rungs == (*first.rungs, rung(1, 0.1))


def test_a_trial_that_no_worker_could_begin_is_handed_out_again_and_counts_no_try(tmp_path: Path) -> None:
    loop = StudyLoop(new_store(tmp_path, search_config(budget=1, baselines=())))
    record = next_trial(loop)
    loop.release(record.number)
    assert loop.running == 0
    assert not loop.finished
    assert loop.next_trial() == record


def test_the_clock_of_a_session_starts_at_the_last_record_of_a_killed_one(tmp_path: Path) -> None:
    now = 0.0
    loop = StudyLoop(new_store(tmp_path, search_config(budget=3, baselines=())), clock=lambda: now)
    now = 70.0
    work(loop, next_trial(loop))
    assert resumed(tmp_path).elapsed_s == 70.0


KILLED_DRIVER = """
import os, signal, sys
from pathlib import Path
from tests.nas.study.builders import search_config
from tests.nas.study.searches import new_store, started, work
from nas.study.loop import StudyLoop
loop = StudyLoop(new_store(Path(sys.argv[1]), search_config(budget=9, baselines=(), sampler="random")))
work(loop, started(loop))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_session_is_over_when_a_later_one_has_ended(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED_DRIVER, str(tmp_path / "run")], check=False)
    assert killed.returncode == -signal.SIGKILL
    loop = StudyLoop(reopen(tmp_path / "run"))
    assert is_open(loop.info)
    loop.gave_up = "20 failed architectures in a row"
    loop.close({}, workers=3)
    assert [session.get("killed") for session in loop.info.sessions] == [True, True, None]
    assert loop.info.sessions[-1]["workers"] == 3
    assert not is_open(loop.info)
    assert search_state(loop.info, loop.evaluated, running=0) is SearchState.ENDED_EARLY


def test_after_the_deadline_no_trial_starts_and_those_under_way_pause_at_their_next_rung(tmp_path: Path) -> None:
    now_s = 0.0
    config = search_config(budget=9, baselines=(), sampler="random")
    loop = StudyLoop(new_store(tmp_path, config), clock=lambda: now_s, deadline_s=100.0)
    trials = begun(loop, 0.8), begun(loop, 0.9)
    now_s = 100.0
    complete = replace(trials[0], rungs=(*trials[0].rungs, rung(1, 0.9)), state=TrialState.COMPLETE)
    assert loop.next_trial() is None
    assert not loop.finished, "two trials are under way"
    assert not loop.report(complete)
    assert not loop.report(trials[1]), "it would have continued"
    assert loop.next_trial() is None
    assert loop.finished
    loop.close({})
    assert loop.info.sessions[-1]["ending"] == OUT_OF_TIME
    later = resumed(tmp_path)
    assert {number: trial.state for number, trial in later.trials.items()} == {
        trials[0].number: TrialState.COMPLETE,
        trials[1].number: TrialState.RUNNING,
    }
    assert next_trial(later).number == trials[1].number
    assert later.report(trials[1])


def test_only_time_without_an_ended_session_counts_with_the_workers_of_the_last_one(tmp_path: Path) -> None:
    now_s = 0.0
    loop = StudyLoop(new_store(tmp_path, search_config(budget=9, baselines=())), clock=lambda: now_s)
    now_s = 100.0
    loop.close({}, workers=2)
    later = resumed(tmp_path, clock=5.0)
    later._clock = lambda: 15.0
    assert later.worker_seconds(8) == 2 * 100 + 8 * 10, "in place of 8 workers for the whole time"
    work(later, next_trial(later))  # after 110 s; the session is killed
    last = resumed(tmp_path, clock=5.0)
    last._clock = lambda: 25.0
    assert last.worker_seconds(4) == 2 * 100 + 4 * (10 + 20)


def failed(loop: StudyLoop) -> None:
    loop.report(replace(next_trial(loop), state=TrialState.FAILED, failure=Failure.NOT_FINITE, reason="nan"))


def test_twenty_failures_in_a_row_end_the_search_and_fewer_do_not(tmp_path: Path) -> None:
    loop = StudyLoop(new_store(tmp_path, search_config(budget=9, baselines=(), sampler="random")))
    for _ in range(19):
        failed(loop)
    work(loop, next_trial(loop))
    for _ in range(19):
        failed(loop)
        assert loop.gave_up is None
    failed(loop)
    assert loop.gave_up
    assert loop.gave_up.startswith("20 ")
    assert loop.gave_up.endswith("nan")


def unfinished(loop: StudyLoop) -> list[Collection[str]]:
    """Return the architectures that a removal of stale files spares; [] where it does not take place."""
    spared: list[Collection[str]] = []
    loop.clean_up(spared.append)
    return spared


def test_stale_files_are_removed_unless_their_trial_is_unfinished(tmp_path: Path) -> None:
    loop = StudyLoop(new_store(tmp_path, search_config(budget=9, baselines=())))
    record = next_trial(loop)
    assert unfinished(resumed(tmp_path)) == [{record.arch_id}]
