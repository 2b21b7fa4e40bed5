"""Which phases of trials the watchdog compares, and whose time counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from nas.backend.watchdog import TrialWatchdog, _RunningTrial
from nas.study.records import TrialRecord, TrialState
from tests.nas.study.builders import measurement, rung


def test_phases_of_one_kind_share_their_times_whenever_a_trial_is_measured():
    orders = []
    for late in (False, True):
        trial = _RunningTrial(1, "actor", int(late), 0.0)
        orders.append([trial.rung])
        for _ in range(3):
            trial.phase += 1
            orders[-1].append(trial.rung)
    assert orders == [[None, 0, 1, 2], [0, None, 1, 2]]


def test_the_time_in_which_the_driver_stood_still_counts_for_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[str] = []
    monkeypatch.setattr("nas.backend.watchdog._kill_worker", killed.append)
    now_s = 0.0
    watchdog = TrialWatchdog(100.0, lambda: now_s)
    watchdog._running = {"a": _RunningTrial(1, "actor a", 0, now_s)}
    for now_s in (50.0, 4050.0, 4090.0):  # stopped for more than an hour by Ctrl-Z
        watchdog.on_step_end(0, [])
        watchdog._running.setdefault("b", _RunningTrial(2, "actor b", 0, now_s))
    assert killed == []
    for now_s in (4105.0, 4160.0):
        watchdog.on_step_end(0, [])
        assert killed == ["actor a", "actor b"][: 1 + (now_s > 4150)]


MEASURED = measurement(1.0)  # in 0.5 s


def tune_trial(number: int) -> Any:
    """Return what the watchdog reads of a trial of Tune."""
    record = TrialRecord(number, f"a{number}", {}, TrialState.RUNNING)
    state = SimpleNamespace(ray_actor=f"actor {number}")
    return SimpleNamespace(trial_id=str(number), config={"record": json.dumps(record.to_dict())}, temporary_state=state)


class Run:
    """Trials under a watchdog without a fixed limit, on a clock of the test's own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self.killed: list[str] = []
        monkeypatch.setattr("nas.backend.watchdog._kill_worker", self.killed.append)
        self.watchdog = TrialWatchdog(None, lambda: self.now_s)

    def start(self, numbers: Sequence[int]) -> list[Any]:
        trials = [tune_trial(number) for number in numbers]
        for trial in trials:
            self.watchdog.on_trial_start(0, trials, trial)
        return trials

    def report(self, trial: Any, **results: Any) -> None:
        """Report the record of a trial with its results so far."""
        record = replace(TrialRecord.from_dict(json.loads(trial.config["record"])), **results)
        self.watchdog.on_trial_result(0, [], trial, {"record": json.dumps(record.to_dict())})

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now_s += 1
            self.watchdog.on_step_end(0, [])


def test_a_trial_that_nobody_wants_any_more_is_killed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now, killed = [0.0], []
    monkeypatch.setattr("ray.kill", killed.append)
    watchdog = TrialWatchdog(None, lambda: now[0], lambda number: number != 2)
    watchdog._running = {"a": _RunningTrial(1, "actor a", 0, 0.0), "b": _RunningTrial(2, "actor b", 0, 0.0)}
    for now[0] in (2.0, 4.0):
        watchdog.on_step_end(0, [])
    assert killed == ["actor b"]


def test_stored_results_that_a_resumed_search_reports_at_once_do_not_kill_the_long_rungs_of_new_trials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch)
    trials = run.start(range(6))
    for trial in trials[:5]:  # stored earlier: within a second
        run.report(trial, measurement=MEASURED)
        run.report(trial, measurement=MEASURED, rungs=(replace(rung(0, 0.5), seconds=1000.0),))
        run.watchdog.on_trial_complete(0, trials, trial)
    run.report(trials[5], measurement=MEASURED)
    run.wait(9990)
    assert run.killed == []
    run.wait(20)
    assert run.killed == ["actor 5"], "longer than ten times the median of the stored rungs"


def test_the_rest_of_a_rung_after_its_checkpoint_counts_as_the_whole_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    trials = run.start(range(6))
    for trial in trials:
        run.report(trial, measurement=MEASURED)
    run.wait(30)
    for trial in trials[:5]:
        run.report(trial, measurement=MEASURED, rungs=(replace(rung(0, 0.5), seconds=1000.0),))
        run.watchdog.on_trial_complete(0, trials, trial)
    run.wait(9900)
    assert run.killed == []


def test_a_trial_that_ends_before_its_measurement_sets_no_limit_for_measurements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch)
    trials = run.start(range(6))
    for trial in trials[:5]:
        run.report(trial, state=TrialState.INFEASIBLE, reason="too large")
        run.watchdog.on_trial_complete(0, trials, trial)
    run.wait(2000)
    assert run.killed == []


def test_phases_that_ran_in_full_set_the_limit_by_their_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    trials = run.start(range(6))
    for trial in trials:
        run.report(trial, measurement=MEASURED)
    run.wait(100)
    for trial in trials[:5]:  # the seconds of the record are without those in which the training waited
        run.report(trial, measurement=MEASURED, rungs=(replace(rung(0, 0.5), seconds=20.0),))
        run.watchdog.on_trial_complete(0, trials, trial)
    run.wait(899)
    assert run.killed == []
    run.wait(2)
    assert run.killed == ["actor 5"]
