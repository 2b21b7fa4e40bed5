"""Lower rungs inform of the last one and never pose as it."""

from __future__ import annotations

import numpy as np
import pytest

from nas.fidelity import at_last_rung


def test_the_last_rung_is_exact():
    values, variances = at_last_rung([(0.1, 0.3), (0.2, 0.5), (0.15,)], 2)
    assert list(values[:2]) == [0.3, 0.5]
    assert list(variances[:2]) == [0.0, 0.0]
    assert variances[2] > 0


def test_a_line_through_those_that_went_on_carries_the_others_up():
    lower = np.linspace(0, 1, 50)
    scatter = np.random.default_rng(0).normal(0, 0.01, 50)
    histories = [(low, 0.2 + 0.5 * low + s) for low, s in zip(lower, scatter, strict=True)]
    values, variances = at_last_rung([*histories, (0.4,)], 2)
    assert values[-1] == pytest.approx(0.2 + 0.5 * 0.4, abs=0.03)
    assert variances[-1] == pytest.approx(0.01**2, rel=0.8)


def test_doubt_grows_with_the_rungs_below():
    rng = np.random.default_rng(1)
    histories = []
    for _ in range(30):
        low = rng.uniform()
        middle = low + rng.normal(0, 0.05)
        histories.append((low, middle, middle + rng.normal(0, 0.02)))
    _, variances = at_last_rung([*histories, (0.5,), (0.5, 0.5)], 3)
    assert variances[-2] > 2 * variances[-1] > 0


def test_one_pair_tells_of_the_rise_and_is_hardly_trusted():
    values, variances = at_last_rung([(0.1, 0.3), (0.2,)], 2)
    assert values[1] == pytest.approx(0.4)
    assert variances[1] == pytest.approx(0.2**2)


def test_a_single_rung_is_final_for_all():
    values, variances = at_last_rung([(0.1,), (0.2,)], 1)
    assert list(values) == [0.1, 0.2]
    assert not variances.any()


def test_doubt_is_carried_up_by_the_slope():
    """First to second rung with scatter around a slope of 1, second to third exactly three times the value."""
    rng = np.random.default_rng(0)
    pairs = [(low, low + rng.normal(0, 0.1)) for low in np.linspace(0, 5, 200)]
    histories = [(low, middle, 3 * middle) for low, middle in pairs]
    values, variances = at_last_rung([*histories, (2.0,), (2.0, 2.0)], 3)
    assert values[-2:] == pytest.approx([6.0, 6.0], abs=0.2)
    assert variances[-2] - variances[-1] == pytest.approx(3**2 * 0.1**2, rel=0.25)


def test_few_pairs_keep_the_slope_near_one():
    values, _ = at_last_rung([(0.0, 0.0), (1.0, 3.0), (0.0,), (1.0,)], 2)
    slope = values[3] - values[2]
    assert 1.3 < slope < 2.6


def test_before_any_trial_has_reached_the_last_rung_all_is_in_doubt():
    values, variances = at_last_rung([(0.1,), (0.3,)], 3)
    assert list(values) == [0.1, 0.3]
    assert (variances >= 2 * 0.1**2 - 1e-12).all()


def test_no_line_is_exact():
    _, variances = at_last_rung([(0.5, 0.5), (0.2,)], 2)
    assert variances[1] > 0
