"""When the expected gain of a search is below its noise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nas.study.convergence import LATEST, convergence, gain_over_noise, gain_ratios, is_below_noise
from nas.study.records import Expectation, TrialRecord
from tests.nas.study.builders import record


def trials(*gains: float | None, repeat_gain: float = 0.01) -> dict[int, TrialRecord]:
    """Return trials with these expected gains in units of the noise; None: without an expectation."""
    expected = [None if gain is None else Expectation(0.5, gain * repeat_gain, repeat_gain) for gain in gains]
    return {n: replace(record(n, (0.1, 0.2), 1.0), expected=e) for n, e in enumerate(expected)}


def test_the_median_of_the_latest_proposals_decides():
    falling = trials(None, *[5.0] * LATEST, *[0.5] * (LATEST // 2), 0.7, 0.9)
    assert [ratio for _, ratio in gain_ratios(falling)][:2] == [5.0, 5.0]
    assert gain_over_noise(falling) == pytest.approx((0.5 + 0.7) / 2)
    assert not is_below_noise(gain_over_noise(trials(*[1.0] * LATEST)))
    assert is_below_noise(gain_over_noise(trials(*[0.99] * LATEST)))


def test_few_proposals_and_samplers_without_expectations_say_nothing():
    for few in (trials(*[0.1] * (LATEST - 1)), trials(*[None] * 40), {}):
        assert gain_over_noise(few) is None
        assert convergence(few.values()) is None
    assert not is_below_noise(None)


def test_one_proposal_in_many_baselines_and_repeats_is_found():
    sparse = trials(*(2.0 if number % 5 == 0 else None for number in range(5 * LATEST)))
    assert gain_over_noise(sparse) == gain_ratios(sparse)[-1].ratio == 2.0


def test_candidates_are_counted_until_the_gain_is_first_below_the_noise():
    study = trials(*[3.0] * 20, *[0.5] * 20, *[1.5] * 20)
    assert convergence(study.values()) == (26, 1.5)
    assert convergence(trials(*[3.0] * 20).values()) == (None, 3.0)
