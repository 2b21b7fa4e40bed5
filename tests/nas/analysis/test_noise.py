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
    CandidateEstimate,
    SeedScatter,
    VariancePrior,
    draw_scores,
    front_chances,
    lead_half_widths,
    measured_scatter,
    scatter_by_kind,
)
from tests.nas.study.builders import measurement

SURE = SeedScatter(0.0, 10)
SCATTER = SeedScatter(0.0075, 10_000)
KNOWN = SeedScatter(0.01, 10_000)  # so many degrees of freedom that it is normal


def net(score: float, ratio: float, off: float = 0.0, seeds: int = 1) -> CandidateEstimate:
    return CandidateEstimate([score] * seeds, ratio, ratio * (1 - off), ratio * (1 + off))


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
    other = CandidateEstimate([0.5], 1.1, 1.1, 1.1)
    upwards, downwards = CandidateEstimate([0.3], 1.0, 1.0, 1.2), CandidateEstimate([0.3], 1.0, 0.8, 1.0)
    assert front_chances([downwards, other], SURE)[0] == 0
    assert 0.1 < front_chances([upwards, other], SURE)[0] < 0.2


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
    beyond = CandidateEstimate([0.0], 100.0, 100.0, 100.0)
    assert front_chances([*nets, beyond], SCATTER, draws=200)[-1] == 1


def test_the_scatter_of_few_candidates_by_hand() -> None:
    # Squares 0.02 + 0.08 = 0.10 over 1 + 2 degrees of freedom; the third net has one seed and nothing to say.
    found = measured_scatter([[0.4, 0.6], [0.1, 0.3, 0.5], [0.9]])
    assert found is not None
    assert found.degrees == 3
    assert found.sd == pytest.approx(math.sqrt(0.10 / 3))
    four = [0.5, 0.5, 0.5, 0.5]  # its own deviation does not count among so few
    assert found.half_width(four) == pytest.approx(3.182446 * found.sd / 2)  # t of 3 degrees of freedom
    assert found.interval_words(four) == "0.2095 to 0.7905"
    assert measured_scatter([[0.4], []]) is None


@pytest.mark.parametrize(("count", "spread"), [(20, 0.005), (20, 0.01), (50, 0.03)])
def test_the_chance_to_be_the_best_of_many_is_that_of_many_searches(count: int, spread: float) -> None:
    rng, said, true = np.random.default_rng(0), [], []
    for _ in range(300):
        real = rng.normal(0.5, spread, count)
        seen = real + rng.normal(0, SCATTER.sd, count)
        drawn = draw_scores(seen[:, None].tolist(), [SCATTER] * len(seen), 400, rng)
        said.append(np.mean(drawn.argmax(axis=1) == seen.argmax()))
        true.append(real.argmax() == seen.argmax())
    assert np.mean(said) == pytest.approx(np.mean(true), abs=0.08)


def test_an_interval_that_says_nothing_leaves_a_dominated_candidate_dominated() -> None:
    wild = replace(measurement(1.0), ratio_low=1e-6, ratio_high=1e6)
    estimates = [CandidateEstimate.of([0.6], measurement(3.0)), CandidateEstimate.of([0.4], wild)]
    assert front_chances(estimates, SCATTER)[1] < 0.01


def test_the_interval_of_the_best_of_many_holds_for_all_of_them() -> None:
    one, many = SCATTER.half_width([0.0] * 3), SCATTER.half_width([0.0] * 3, compared=10)
    assert one is not None
    assert many is not None
    rng = np.random.default_rng(0)
    scores = rng.normal(0, SCATTER.sd / math.sqrt(3), (20_000, 10))
    assert np.mean(np.abs(scores).max(axis=1) <= many) == pytest.approx(0.96, abs=0.015)
    assert np.mean(np.abs(scores).max(axis=1) <= one) < 0.8


def test_a_candidate_s_deviation_is_weighed_with_the_typical_one_by_hand() -> None:
    scatter = SeedScatter(0.02, 50, prior=VariancePrior(0.01, 4.0))
    sd, degrees = scatter.of([0.47, 0.50, 0.53])  # squares 0.0018, 2 degrees of freedom
    assert sd == pytest.approx(math.sqrt((4 * 0.0001 + 0.0018) / 6))
    assert degrees == 6
    assert scatter.of([0.5]) == pytest.approx((0.01, 4))
    assert scatter.half_width([0.47, 0.50, 0.53]) == pytest.approx(2.446912 * sd / math.sqrt(3))  # t of 6
    assert SeedScatter(0.02, 3, prior=VariancePrior(0.01, 4.0)).of([0.47, 0.50, 0.53])[1] == 3


def scores_of(rng: np.random.Generator, count: int, alike: float) -> np.ndarray:
    """Draw scores of three seeds (count, 3), whose variances have a scaled inverse chi-squared distribution."""
    variances = np.full(count, 1e-4) if math.isinf(alike) else 1e-4 * alike / rng.chisquare(alike, count)
    return 0.5 + np.sqrt(variances)[:, None] * rng.standard_normal((count, 3))


def test_the_prior_is_that_of_the_candidates() -> None:
    rng = np.random.default_rng(0)
    for alike, low, high in ((4.0, 3.0, 6.0), (math.inf, 20.0, math.inf)):
        found = measured_scatter(scores_of(rng, 500, alike).tolist())
        assert found is not None
        assert found.prior is not None
        assert found.prior.sd == pytest.approx(0.01, rel=0.1)
        assert low < found.prior.degrees < high


def test_equal_scores_and_twins_among_them_do_no_harm() -> None:
    assert measured_scatter([[0.5, 0.5]] * 20) == SeedScatter(0.0, 20)
    found = measured_scatter([[0.5, 0.5], *([0.5, 0.5 + 0.001 * i] for i in range(1, 15))])
    assert found is not None
    assert found.prior is not None
    assert 0.001 < found.prior.sd < 0.01


@pytest.mark.parametrize("alike", [3.0, 10.0, math.inf])
def test_intervals_cover_the_true_means_of_those_whose_seeds_disagree_too(alike: float) -> None:
    rng, covered, pooled = np.random.default_rng(1), [], []
    for _ in range(100):
        scores = scores_of(rng, 25, alike)
        found = measured_scatter(scores.tolist())
        assert found is not None
        worst = np.argsort(scores.std(axis=1))[-5:]
        off = np.abs(scores.mean(axis=1) - 0.5)
        covered += [off[i] <= (found.half_width(scores[i].tolist()) or 0) for i in worst]
        pooled += [off[i] <= (replace(found, prior=None).half_width(scores[i].tolist()) or 0) for i in worst]
    assert np.mean(covered) > 0.925
    assert (np.mean(pooled) < 0.88) == (alike == 3)


def test_the_score_of_one_whose_seeds_disagree_is_drawn_from_a_wider_distribution() -> None:
    scatter = SeedScatter(0.01, 50, prior=VariancePrior(0.01, 4.0))
    scores = [[0.5, 0.5, 0.5], [0.44, 0.5, 0.56]]
    drawn = draw_scores(scores, [scatter] * 2, 40_000, np.random.default_rng(0))
    for values, column in zip(scores, drawn.T, strict=True):
        low, high = np.quantile(column, [0.025, 0.975])
        assert (high - low) / 2 == pytest.approx(scatter.half_width(values), rel=0.05)


def test_intervals_of_baselines_cover_their_true_means_where_they_scatter_more() -> None:
    rng, covered, together = np.random.default_rng(2), [], []
    for _ in range(200):
        scores = [*rng.normal(0.5, 0.002, (25, 3)).tolist(), *rng.normal(0.5, 0.005, (3, 3)).tolist()]
        kinds = [index >= 25 for index in range(28)]
        found = scatter_by_kind(zip(scores, kinds, strict=True))
        as_one = measured_scatter(scores)
        assert found is not None
        assert as_one is not None
        for values in scores[25:]:
            off = abs(np.mean(values) - 0.5)
            covered.append(off <= (found.of_kind(baseline=True).half_width(values) or 0))
            together.append(off <= (as_one.half_width(values) or 0))
    assert np.mean(covered) > 0.93
    assert np.mean(together) < 0.9


def test_a_kind_without_two_seeds_has_no_interval() -> None:
    candidates, baselines = [([0.5, 0.51], None), ([0.4, 0.42], None)], [([0.5, 0.6], "a"), ([0.5, 0.7, 0.6], "b")]
    both = scatter_by_kind([*candidates, *baselines])
    assert both is not None
    assert both.baselines == measured_scatter([[0.5, 0.6], [0.5, 0.7, 0.6]])
    assert "; of baselines 0.0913 (3 degrees of freedom)" in both.words
    assert both.sd == measured_scatter([[0.5, 0.51], [0.4, 0.42]]).sd  # type: ignore[union-attr]

    alone = scatter_by_kind([*candidates, ([0.5], "a")])
    assert alone is not None
    assert alone.of_kind(baseline=False).half_width([0.5, 0.51]) is not None
    assert alone.of_kind(baseline=True).half_width([0.5]) is None
    assert lead_half_widths(alone, [0.5, 0.51], [0.5]) is None
    assert alone.words.endswith("; of baselines unknown, which have one seed")

    assumed = SeedScatter(0.003, 100, "another study")
    once = scatter_by_kind([([0.5], None), *baselines], assumed)
    assert once is not None
    assert not once.measured
    assert once.of_kind(baseline=False).half_width([0.5]) is None
    assert once.of_kind(baseline=True).half_width([0.5, 0.6]) is not None
    assert scatter_by_kind([([0.5], None), ([0.5], "a")], assumed) is None
