"""Which stages of trials the watchdog compares, and whose time counts."""

import pytest

from nas.backend.watchdog import TrialWatchdog, _RunningTrial


def test_stages_of_one_kind_share_their_times_whenever_a_trial_is_measured():
    orders = []
    for late in (False, True):
        trial = _RunningTrial("actor", late, 0.0)
        orders.append([trial.rung])
        for _ in range(3):
            trial.stage += 1
            orders[-1].append(trial.rung)
    assert orders == [[None, 0, 1, 2], [0, None, 1, 2]]


def test_the_time_in_which_the_driver_stood_still_counts_for_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[str] = []
    monkeypatch.setattr("nas.backend.watchdog._kill_worker", killed.append)
    now_s = 0.0
    watchdog = TrialWatchdog(100.0, lambda: now_s)
    watchdog._running = {"a": _RunningTrial("actor a", False, now_s)}
    for now_s in (50.0, 4050.0, 4090.0):  # stopped for more than an hour by Ctrl-Z
        watchdog.on_step_end(0, [])
        watchdog._running.setdefault("b", _RunningTrial("actor b", False, now_s))
    assert killed == []
    for now_s in (4105.0, 4160.0):
        watchdog.on_step_end(0, [])
        assert killed == ["actor a", "actor b"][: 1 + (now_s > 4150)]
