"""Kendall's tau and the pairs behind it, by hand."""

from __future__ import annotations

import pytest

from nas.analysis.agreement import speed_agreement
from nas.analysis.front import FrontPoint


def points(*ratios: float, width: float = 0.0) -> list[FrontPoint]:
    return [FrontPoint(i, 0.0, r, r * (1 - width), r * (1 + width)) for i, r in enumerate(ratios)]


def test_tau_by_hand() -> None:
    found = speed_agreement(points(1, 2, 3, 4), points(1, 3, 2, 4))  # five pairs agree, one is turned
    assert found.correlation.tau == pytest.approx((5 - 1) / 6)
    assert found.correlation.candidates == 4
    assert (found.pairs, found.swapped, found.clearly_swapped, found.tied, found.overlapping) == (6, 1, 1, 0, 0)
    assert (found.correlation.low, found.correlation.high) == (None, None)  # too few to resample


def test_ties_leave_tau_b_its_own_denominator() -> None:
    found = speed_agreement(points(1, 2, 3, 4), points(1, 2, 2, 3))  # five pairs agree, one is tied now
    assert found.correlation.tau == pytest.approx(5 / (6 * 5) ** 0.5)
    assert (found.swapped, found.tied, found.overlapping) == (0, 1, 1)
    assert speed_agreement(points(1, 2, 3), points(2, 2, 2)).correlation.tau is None
    assert speed_agreement(points(1, 2), points(1, 2)).correlation.tau is None


def test_what_turns_within_the_intervals_is_not_sure() -> None:
    found = speed_agreement(points(1, 2, 2.1, width=0.05), points(1, 2.1, 2, width=0.05))
    assert (found.swapped, found.clearly_swapped, found.overlapping) == (1, 0, 1)


def test_the_interval_of_tau_holds_it_and_is_the_same_each_time() -> None:
    before, now = points(1, 2, 3, 4, 5, 6, 7, 8), points(2, 1, 3, 4, 6, 5, 7, 8)
    found = speed_agreement(before, now)
    assert found == speed_agreement(before, now)
    assert found.correlation.low is not None
    assert found.correlation.tau is not None
    assert found.correlation.high is not None
    assert 0 < found.correlation.low < found.correlation.tau < found.correlation.high <= 1
