"""Kendall's tau and the pairs behind it, by hand."""

from __future__ import annotations

import pytest

from nas.reranking.agreement import agreement
from nas.reranking.plane import Spot
from nas.reranking.wording import order_line


def spots(*ratios: float, width: float = 0.0) -> list[Spot]:
    return [Spot(i, 0.0, r, r * (1 - width), r * (1 + width)) for i, r in enumerate(ratios)]


def test_tau_by_hand() -> None:
    found = agreement(spots(1, 2, 3, 4), spots(1, 3, 2, 4))  # five pairs agree, one is turned
    assert found.tau == pytest.approx((5 - 1) / 6)
    assert (found.nets, found.pairs, found.turned, found.surely_turned, found.tied, found.close) == (4, 6, 1, 1, 0, 0)
    assert (found.low, found.high) == (None, None)  # too few to resample
    assert "0.67 of 4 nets (no interval of fewer than 6); of 6 pairs 1 turned" in order_line(found)


def test_ties_leave_tau_b_its_own_denominator() -> None:
    found = agreement(spots(1, 2, 3, 4), spots(1, 2, 2, 3))  # five pairs agree, one is tied now
    assert found.tau == pytest.approx(5 / (6 * 5) ** 0.5)
    assert (found.turned, found.tied, found.close) == (0, 1, 1)
    assert agreement(spots(1, 2, 3), spots(2, 2, 2)).tau is None
    assert agreement(spots(1, 2), spots(1, 2)).tau is None


def test_what_turns_within_the_intervals_is_not_sure() -> None:
    found = agreement(spots(1, 2, 2.1, width=0.05), spots(1, 2.1, 2, width=0.05))
    assert (found.turned, found.surely_turned, found.close) == (1, 0, 1)


def test_the_interval_of_tau_holds_it_and_is_the_same_each_time() -> None:
    before, now = spots(1, 2, 3, 4, 5, 6, 7, 8), spots(2, 1, 3, 4, 6, 5, 7, 8)
    found = agreement(before, now)
    assert found == agreement(before, now)
    assert found.low is not None
    assert found.tau is not None
    assert found.high is not None
    assert 0 < found.low < found.tau < found.high <= 1
