"""Which stages of trials the watchdog compares."""

from nas.backend.watchdog import _RunningTrial


def test_stages_of_one_kind_share_their_times_whenever_a_trial_is_measured():
    orders = []
    for late in (False, True):
        trial = _RunningTrial("actor", late)
        orders.append([trial.rung])
        for _ in range(3):
            trial.stage += 1
            orders[-1].append(trial.rung)
    assert orders == [[None, 0, 1, 2], [0, None, 1, 2]]
