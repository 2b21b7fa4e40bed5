"""Kendall's tau and the pairs behind it, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from nas.analysis.agreement import rank_correlation, speed_agreement
from nas.analysis.front import FrontPoint


def points(*ratios: float, width: float = 0.0) -> list[FrontPoint]:
    return [FrontPoint(i, 0.0, r, r * (1 - width), r * (1 + width)) for i, r in enumerate(ratios)]


def test_tau_by_hand() -> None:
    a = speed_agreement(points(1, 2, 3, 4), points(1, 3, 2, 4))  # five pairs agree, one is swapped
    assert a.correlation.tau == pytest.approx((5 - 1) / 6)
    assert a.correlation.candidates == 4
    assert (a.pairs, a.swapped, a.clearly_swapped, a.tied, a.overlapping) == (
        6,
        1,
        1,
        0,
        0,
    )
    assert (a.correlation.low, a.correlation.high) == (None, None)  # too few to resample


def test_ties_leave_tau_b_its_own_denominator() -> None:
    a = speed_agreement(points(1, 2, 3, 4), points(1, 2, 2, 3))  # five pairs agree, one is tied now
    assert a.correlation.tau == pytest.approx(5 / (6 * 5) ** 0.5)
    assert (a.swapped, a.tied, a.overlapping) == (0, 1, 1)
    assert speed_agreement(points(1, 2, 3), points(2, 2, 2)).correlation.tau is None
    assert speed_agreement(points(1, 2), points(1, 2)).correlation.tau is None


def test_swaps_within_the_intervals_are_not_clear() -> None:
    a = speed_agreement(points(1, 2, 2.1, width=0.05), points(1, 2.1, 2, width=0.05))
    assert (a.swapped, a.clearly_swapped, a.overlapping) == (1, 0, 1)


def test_the_interval_of_tau_holds_it_and_is_the_same_each_time() -> None:
    before, now = points(1, 2, 3, 4, 5, 6, 7, 8), points(2, 1, 3, 4, 6, 5, 7, 8)
    a = speed_agreement(before, now)
    assert a == speed_agreement(before, now)
    assert a.correlation.low is not None
    assert a.correlation.tau is not None
    assert a.correlation.high is not None
    assert 0 < a.correlation.low < a.correlation.tau < a.correlation.high <= 1


def test_tau_is_that_of_scipy_with_and_without_ties() -> None:
    rng = np.random.default_rng(0)
    few = np.array([[0, 1], [1, 1], [0, 0], [1, 1]])
    for columns in (rng.standard_normal((20, 2)), rng.integers(0, 4, (20, 2)), few):
        pairs = columns.tolist()
        assert rank_correlation(pairs).tau == pytest.approx(kendalltau(*columns.T).statistic)
