"""Chances by hand, against the definition drawn one by one, and what must hold for all."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.analysis.noise import (
    NO_SCORE_INTERVAL,
    CandidateEstimate,
    SeedScatter,
    _non_dominated,
    assumed_scatter,
    draw_scores,
    front_chances,
    pooled_scatter,
)
from nas.study import pareto
from tests.nas.analysis.builders import small_study
from tests.nas.study.builders import measurement

SURE = SeedScatter(0.0, 10)
SCATTER = SeedScatter(0.0075, 10_000)
KNOWN = SeedScatter(0.01, 10_000)  # so many degrees of freedom that it is normal


def net(score: float, ratio: float, off: float = 0.0, seeds: int = 1) -> CandidateEstimate:
    return CandidateEstimate(score, seeds, ratio, ratio * (1 - off), ratio * (1 + off))


def test_without_noise_a_chance_is_one_or_zero_and_equal_nets_share_the_front() -> None:
    nets = [net(0.5, 1.0), net(0.4, 2.0), net(0.4, 1.0), net(0.5, 1.0), net(0.4, 1.5), net(0.5, 0.9)]
    assert front_chances(nets, SURE, draws=3) == [1, 1, 0, 1, 0, 0]


def test_the_slower_of_two_equally_good_nets_is_on_the_front_every_second_time() -> None:
    slow, fast = front_chances([net(0.5, 1.0), net(0.5, 2.0)], KNOWN)
    assert fast == 1
    assert slow == pytest.approx(0.5, abs=0.015)


def test_a_difference_of_one_standard_deviation_counts_for_what_the_normal_distribution_says() -> None:
    # The slow net is behind by 0.01; the difference of two single trainings has sd 0.01 * sqrt(2).
    slow, _ = front_chances([net(0.49, 1.0), net(0.5, 2.0)], KNOWN)
    assert slow == pytest.approx(statistics.NormalDist().cdf(-1 / math.sqrt(2)), abs=0.015)
    # Over four seeds each, half of it.
    slow, _ = front_chances([net(0.49, 1.0, seeds=4), net(0.5, 2.0, seeds=4)], KNOWN)
    assert slow == pytest.approx(statistics.NormalDist().cdf(-2 / math.sqrt(2)), abs=0.015)


def test_a_speed_counts_with_its_interval() -> None:
    # Worse in score for sure: on the front only if it is the faster. The ends of 95 % intervals meet half-way.
    apart, close = (front_chances([net(0.3, 1.0, 0.02), net(0.5, other, 0.02)], SURE)[0] for other in (1.04, 1.01))
    sd = math.sqrt(2) * 0.02 / 1.96
    assert apart == pytest.approx(statistics.NormalDist().cdf(-math.log(1.04) / sd), abs=0.01)
    assert close == pytest.approx(statistics.NormalDist().cdf(-math.log(1.01) / sd), abs=0.02)


def test_each_side_of_an_interval_counts_by_itself() -> None:
    other = CandidateEstimate(0.5, 1, 1.1, 1.1, 1.1)
    upwards, downwards = CandidateEstimate(0.3, 1, 1.0, 1.0, 1.2), CandidateEstimate(0.3, 1, 1.0, 0.8, 1.0)
    assert front_chances([downwards, other], SURE)[0] == 0
    assert 0.1 < front_chances([upwards, other], SURE)[0] < 0.2


def test_few_degrees_of_freedom_make_heavier_tails() -> None:
    rng = np.random.default_rng(0)
    drawn = {df: draw_scores([0.0], [1], SeedScatter(1.0, df), 20_000, rng) for df in (2, 10_000)}
    beyond = {df: float((np.abs(values) > 1.96).mean()) for df, values in drawn.items()}
    assert beyond[10_000] == pytest.approx(0.05, abs=0.006)
    assert beyond[2] == pytest.approx(0.189, abs=0.012)  # Student's t with 2 degrees of freedom


def test_the_same_nets_have_the_same_chances_every_time() -> None:
    nets = [net(0.5, 1.0, 0.01), net(0.49, 1.02, 0.01), net(0.505, 0.99, 0.01)]
    assert front_chances(nets, SCATTER) == front_chances(nets, SCATTER)
    assert front_chances([], SCATTER) == []


few_values = st.integers(0, 3).map(float)  # few, so that ties are frequent


@given(st.lists(st.lists(st.tuples(few_values, few_values), min_size=5, max_size=5), min_size=1, max_size=6))
def test_non_dominated_is_the_front_of_every_draw(drawn: list[list[tuple[float, float]]]) -> None:
    values = np.asarray(drawn)
    kept = _non_dominated(values[..., 0], values[..., 1])
    assert [list(np.flatnonzero(row)) for row in kept] == [pareto.front(points) for points in drawn]


nets_of_any_kind = st.builds(
    net,
    st.floats(0.1, 0.9),
    st.floats(0.2, 8),
    st.floats(0, 0.2),
    st.integers(1, 5),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(nets_of_any_kind, min_size=1, max_size=6))
def test_in_every_draw_somebody_is_on_the_front_and_the_fastest_alone_is_always(nets: list[CandidateEstimate]) -> None:
    chances = front_chances(nets, SCATTER, draws=200)
    assert all(0 <= chance <= 1 for chance in chances)
    assert sum(chances) >= 1
    beyond = CandidateEstimate(0.0, 1, 100.0, 100.0, 100.0)
    assert front_chances([*nets, beyond], SCATTER, draws=200)[-1] == 1


def test_pooled_scatter_by_hand() -> None:
    # Squares 0.02 + 0.08 = 0.10 over 1 + 2 degrees of freedom; the third net has one seed and nothing to say.
    found = pooled_scatter([[0.4, 0.6], [0.1, 0.3, 0.5], [0.9]])
    assert found is not None
    assert found.degrees == 3
    assert found.sd == pytest.approx(math.sqrt(0.10 / 3))
    assert found.half_width(4) == pytest.approx(3.182446 * found.sd / 2)  # t of 3 degrees of freedom
    assert found.interval_words(0.5, 4) == "0.2095 to 0.7905"
    assert pooled_scatter([[0.4], []]) is None


def test_a_deviation_of_another_study_gives_no_interval() -> None:
    assumed = assumed_scatter(replace(small_study().info, config={"space": "laptop"}))
    assert assumed.half_width(1) is None
    assert assumed.interval_words(0.5, 1) == NO_SCORE_INTERVAL
    assert "assumed" in assumed.words
    assert "architectures of the space laptop" in assumed.words
    assert "assumed" not in SeedScatter(0.01, 4).words


@pytest.mark.parametrize(("count", "spread"), [(20, 0.005), (20, 0.01), (50, 0.03)])
def test_the_chance_to_be_the_best_of_many_is_that_of_many_searches(count: int, spread: float) -> None:
    rng, said, true = np.random.default_rng(0), [], []
    for _ in range(300):
        real = rng.normal(0.5, spread, count)
        seen = real + rng.normal(0, SCATTER.sd, count)
        drawn = draw_scores(seen, [1] * count, SCATTER, 400, rng)
        said.append(np.mean(drawn.argmax(axis=1) == seen.argmax()))
        true.append(real.argmax() == seen.argmax())
    assert np.mean(said) == pytest.approx(np.mean(true), abs=0.08)


def test_an_interval_that_says_nothing_leaves_a_dominated_candidate_dominated() -> None:
    wild = replace(measurement(1.0), ratio_low=1e-6, ratio_high=1e6)
    estimates = [CandidateEstimate.of(0.6, 1, measurement(3.0)), CandidateEstimate.of(0.4, 1, wild)]
    assert front_chances(estimates, SCATTER)[1] < 0.01


def test_the_interval_of_the_best_of_many_holds_for_all_of_them() -> None:
    one, many = SCATTER.half_width(3), SCATTER.half_width(3, compared=10)
    assert one is not None
    assert many is not None
    rng = np.random.default_rng(0)
    scores = rng.normal(0, SCATTER.sd / math.sqrt(3), (20_000, 10))
    assert np.mean(np.abs(scores).max(axis=1) <= many) == pytest.approx(0.96, abs=0.015)
    assert np.mean(np.abs(scores).max(axis=1) <= one) < 0.8
