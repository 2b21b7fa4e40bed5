"""Which trials continue after a rung."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.study.halving import ScoreCurve, front_gain, ladder, score_curve, should_continue
from nas.study.pareto import best_first
from nas.study.records import TrialState
from tests.nas.study.builders import OBJECTIVES, record


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


def curve(number: int, *scores: float, cost: float = 0.0, alive: bool = True) -> ScoreCurve:
    return ScoreCurve(number, scores, (cost,), alive)


def test_a_curve_has_the_scores_and_the_costs_of_its_trial() -> None:
    trial = record(3, (0.2, 0.4), ratio=2.0)
    made = score_curve(trial, OBJECTIVES)
    assert made is not None
    assert (made.number, made.scores, made.costs, made.alive) == (3, (0.2, 0.4), (1.0,), True)
    stopped = replace(trial, state=TrialState.STOPPED, rungs=trial.rungs[:1])
    assert score_curve(stopped, OBJECTIVES) == made._replace(scores=(0.2,), alive=False)
    under_way = replace(stopped, state=TrialState.RUNNING)
    assert score_curve(under_way, OBJECTIVES) == made._replace(scores=(0.2,))
    assert score_curve(replace(trial, baseline="eradio_pico"), OBJECTIVES) is None
    assert score_curve(replace(trial, measurement=None), OBJECTIVES) is None


def test_the_gain_of_a_trial_is_what_it_adds_to_the_hypervolume_of_the_rivals() -> None:
    reference = (0.0, -3.0)
    slow = curve(1, 0.5, cost=1.0, alive=True)
    for scores, cost, gain in (((0.2,), 3.0, 0.2), ((0.4,), 0.5, 0.0), ((1.0,), 1.0, 1.0), ((0.2,), -4.0, 0.0)):
        trial = curve(0, *scores, cost=cost)
        assert front_gain(trial, [slow], 1, reference) == pytest.approx(gain)
        assert front_gain(trial, [], 1, reference) == (math.inf if cost > -3 else 0.0)
    stopped = curve(2, 0.9, cost=5.0, alive=False)
    assert front_gain(curve(0, 0.2, cost=3.0), [slow, stopped], 1, reference) == pytest.approx(0.2), "no rival"


def test_trials_that_have_passed_the_same_rung_are_rivals() -> None:
    """Otherwise every trial of a large first wave would pass: there is no front yet to which it could add little."""
    under_way, behind = curve(1, 0.5, cost=1.0), curve(2, 0.9, 0.9, cost=1.0)
    assert front_gain(curve(0, 0.4, cost=0.5), [under_way], 3, (0.0, -3.0)) == 0.0
    at_the_second = curve(0, 0.4, 0.4, cost=0.5)
    assert front_gain(at_the_second, [under_way], 3, (0.0, -3.0)) == math.inf, "that one may still stop"
    assert front_gain(at_the_second, [under_way, behind], 3, (0.0, -3.0)) == 0.0


def test_the_gain_counts_the_score_that_is_predicted() -> None:
    """Scores of the pairs double from rung to rung, so that 0.2 becomes about 0.4."""
    pairs = [curve(i, 0.1 * i, 0.2 * i, cost=0.0, alive=True) for i in range(1, 6)]
    gain = front_gain(curve(0, 0.2, cost=1.0), pairs, 2, (0.0, -3.0))
    assert gain == pytest.approx(0.4 / 3, rel=0.15)
