"""The interval covers the median as often as it says, also where neighbouring samples are alike."""

import numpy as np
import pytest

from nas.measure.statistics import Interval, median_interval, paired_ratios, ratio_interval


def coverage(series, truth: float, trials: int = 300) -> float:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(trials):
        interval = median_interval(series(rng), rng)
        inside += interval.low <= truth <= interval.high
    return inside / trials


def test_interval_covers_the_median_of_independent_samples():
    assert 0.90 <= coverage(lambda rng: np.exp(0.05 * rng.standard_normal(60)), 1.0) <= 0.99


def test_blocks_keep_the_coverage_of_correlated_samples():
    def correlated(rng):
        noise = rng.standard_normal(104)
        return np.exp(0.05 * sum(noise[i : i + 100] for i in range(4)) / 2)  # moving average of four

    assert coverage(correlated, 1.0) >= 0.85  # drawing single samples covers under 0.75


def test_few_samples_reach_their_extremes_and_none_is_an_error():
    interval = median_interval(np.array([3.0, 1.0, 2.0]), np.random.default_rng(0))
    assert interval.value == 2.0
    assert interval.low < 1.0
    assert interval.high > 3.0
    assert median_interval(np.array([5.0]), np.random.default_rng(0)) == Interval(5.0, 2.5, 10.0)
    with pytest.raises(ValueError, match="samples"):
        median_interval(np.array([]), np.random.default_rng(0))


def test_linear_drift_cancels_within_a_block():
    clock = np.array([[1.00, 1.01, 1.02, 1.03]])  # A B B A of two identical arms, 1 % slower at each step
    assert paired_ratios(clock[:, [0, 3]], clock[:, [1, 2]])[0] == pytest.approx(1, abs=2e-4)
    assert paired_ratios(np.array([[2.0, 2.0]]), np.array([[1.0, 1.0]]))[0] == pytest.approx(0.5)  # twice as slow


def test_ratio_of_few_blocks_spans_single_samples():
    interval = ratio_interval(np.array([[1.0, 2.0]]), np.array([[2.0, 2.0]]), np.random.default_rng(0))
    assert interval.low < 1.0
    assert interval.high > 2.0
    assert interval.value == pytest.approx(2**0.5)


@pytest.mark.parametrize("n", [2, 5])
def test_intervals_of_few_samples_cover_as_often_as_they_say(n):
    """Two samples that happen to be alike are no certainty."""
    inside = coverage(lambda rng: np.exp(0.05 * rng.standard_normal(n)), 1.0, 600)
    assert inside >= 0.93
    ratios = [
        ratio_interval(*np.exp(0.05 * np.random.default_rng(i).standard_normal((2, 1, 2))), np.random.default_rng(0))
        for i in range(300)
    ]
    assert np.mean([r.low <= 1 <= r.high for r in ratios]) >= 0.93
