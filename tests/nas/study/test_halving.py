"""Which trials continue after a rung."""

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from nas.study.halving import ladder, should_continue
from nas.study.pareto import best_first


def test_first_trials_continue() -> None:
    assert should_continue((0.1, 0.1), [], eta=3)


def test_dominated_trial_stops_and_dominating_trial_continues() -> None:
    others = [(0.5, 1.0), (0.4, 0.9), (0.3, 0.8)]
    assert not should_continue((0.2, 0.7), others, eta=3)
    assert should_continue((0.6, 1.1), others, eta=3)


def test_slow_trial_with_the_best_score_continues() -> None:
    others = [(0.5, float(i)) for i in range(8)]
    assert should_continue((0.9, -5.0), others, eta=3)


def test_about_one_in_eta_continues() -> None:
    rng = random.Random(0)
    points = [(rng.random(), rng.random()) for _ in range(300)]
    passed = sum(should_continue(p, points[:i], eta=3) for i, p in enumerate(points))
    assert 90 <= passed <= 140


_COARSE = st.tuples(st.integers(0, 4).map(float), st.integers(0, 4).map(float))  # many ties


@given(st.lists(_COARSE, min_size=1, max_size=25), st.integers(2, 4))
def test_decision_agrees_with_the_ranking_of_all(points: list[tuple[float, float]], eta: int) -> None:
    *others, point = points
    best = best_first(points)[: math.ceil(len(points) / eta)]
    assert should_continue(point, others, eta) == (len(others) in best)


def test_most_trials_that_hindsight_would_choose_continue() -> None:
    rng = random.Random(1)
    points = [(rng.random(), rng.random()) for _ in range(200)]
    passed = {i for i, p in enumerate(points) if should_continue(p, points[:i], eta=3)}
    chosen = set(best_first(points)[:67])
    assert len(chosen - passed) <= 12
    assert len(passed - chosen) <= 12


def test_ladder() -> None:
    assert ladder(60, 3, 3) == (60, 180, 540)
