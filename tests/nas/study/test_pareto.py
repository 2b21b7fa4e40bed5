"""Fronts, ranks and hypervolume against values derived by hand."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.study.pareto import best_first, coordinates, crowding, front, hypervolume, ranks, reference_point
from nas.study.records import Expectation, TrialState
from tests.nas.study.builders import OBJECTIVES, measurement, record

POINTS = [(1.0, 4.0), (2.0, 3.0), (3.0, 1.0), (1.0, 3.0), (2.0, 1.0), (0.5, 0.5)]


def test_front_is_what_nothing_dominates() -> None:
    assert front(POINTS) == [0, 1, 2]


def test_ranks_peel_front_after_front() -> None:
    assert ranks(POINTS) == [0, 0, 0, 1, 1, 2]


def test_crowding_is_infinite_at_the_ends_and_sums_the_sides_between() -> None:
    # Middle point: (3 - 0) / 3 on the first axis and (3 - 0) / 3 on the second.
    assert crowding([(0.0, 3.0), (1.0, 2.0), (3.0, 0.0)]) == [math.inf, 2.0, math.inf]


def test_best_first_puts_rank_before_crowding() -> None:
    order = best_first(POINTS)
    assert set(order[:3]) == {0, 1, 2}
    assert order[0] in (0, 2)
    assert order[-1] == 5


def test_hypervolume_of_a_staircase() -> None:
    # 1x4 + 1x3 + 1x1 over the origin.
    assert hypervolume(POINTS, (0.0, 0.0)) == pytest.approx(8.0)


def test_points_below_the_reference_add_nothing() -> None:
    assert hypervolume([(2.0, -1.0), (1.0, 1.0)], (0.0, 0.0)) == pytest.approx(1.0)
    assert hypervolume([], (0.0, 0.0)) == 0.0


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        front([(float("nan"), 1.0)])


def test_throughput_counts_in_octaves() -> None:
    assert coordinates(record(0, (0.2, 0.5), ratio=4.0), OBJECTIVES, rung=1) == (0.5, 2.0)
    assert coordinates(record(0, (0.2,), ratio=4.0), OBJECTIVES, rung=1) is None
    assert reference_point(OBJECTIVES) == (0.0, -3.0)


coordinate_values = st.floats(0, 10).map(lambda x: round(x, 1))


@given(st.lists(st.tuples(coordinate_values, coordinate_values), min_size=1, max_size=30))
def test_front_equals_its_definition(points: list[tuple[float, float]]) -> None:
    def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] >= b[0] and a[1] >= b[1] and a != b

    expected = [i for i, p in enumerate(points) if not any(dominates(q, p) for q in points)]
    assert front(points) == expected


def test_a_prediction_counts_until_a_measurement_and_failed_or_infeasible_trials_have_no_point() -> None:
    late = replace(record(0, (0.1,), 4.0), measurement=None, expected=Expectation(0.5, 0.1, 0.01, 2.0))
    for state in (TrialState.RUNNING, TrialState.STOPPED):
        assert coordinates(replace(late, state=state), OBJECTIVES, 0) == (0.1, 1.0)
        measured = replace(late, state=state, measurement=measurement(4.0))
        assert coordinates(measured, OBJECTIVES, 0) == (0.1, 2.0)
    assert coordinates(replace(late, state=TrialState.FAILED), OBJECTIVES, 0) is None
    infeasible = replace(late, state=TrialState.INFEASIBLE, measurement=measurement(4.0))
    assert coordinates(infeasible, OBJECTIVES, 0) is None
