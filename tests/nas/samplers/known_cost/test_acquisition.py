"""Expected hypervolume improvement against hand-made cases and against drawn qualities."""

from __future__ import annotations

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from nas.samplers.known_cost.acquisition import (
    AcquisitionModel,
    expected_hypervolume_improvement,
    expected_improvement,
)


def test_certain_quality_adds_its_area():
    points = np.array([[2.0, 1.0], [1.0, 3.0]])
    # Quality 3 at cost 2 (more is better): over level 1 between costs 1 and 2, over level 2 between 0 and 1.
    gain = expected_hypervolume_improvement(np.array([3.0]), np.array([1e-9]), np.array([2.0]), points, (0.0, 0.0))
    assert gain[0] == pytest.approx((3 - 1) * (2 - 1) + (3 - 2) * (1 - 0))


def test_points_beyond_the_reference_count_as_absent():
    points = np.array([[-1.0, 5.0], [5.0, -1.0]])
    gain = expected_hypervolume_improvement(np.array([2.0]), np.array([1e-9]), np.array([3.0]), points, (0.0, 0.0))
    assert gain[0] == pytest.approx(6.0)


def test_cost_beyond_the_reference_gains_nothing():
    costs = np.array([-0.5, -np.inf])
    gains = expected_hypervolume_improvement(np.full(2, 9.0), np.ones(2), costs, np.empty((0, 2)), (0.0, 0.0))
    assert list(gains) == [0.0, 0.0]


def test_with_one_cost_for_all_it_is_the_expected_improvement():
    points = np.array([[0.3, 1.0], [0.7, 1.0]])
    mean, deviation = np.array([0.2, 0.9]), np.array([0.5, 0.1])
    gains = expected_hypervolume_improvement(mean, deviation, np.ones(2), points, (0.0, 0.0))
    assert gains == pytest.approx(expected_improvement(mean, deviation, 0.7))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), max_size=6),
    st.floats(-1, 6),
    st.floats(0.05, 2),
    st.floats(-1, 6),
)
def test_is_the_mean_over_qualities(points, mean, deviation, cost):
    rows = np.array(points).reshape(-1, 2)
    gain = expected_hypervolume_improvement(np.array([mean]), np.array([deviation]), np.array([cost]), rows, (0.5, 0.5))
    qualities = norm.ppf((np.arange(400) + 0.5) / 400, mean, deviation)

    def volume(of):
        return moocore.hypervolume(of, ref=[0.5, 0.5], maximise=True) if len(of) else 0.0

    after = [volume(np.vstack([rows, [quality, cost]])) for quality in qualities]
    assert gain[0] == pytest.approx(np.mean(after) - volume(rows), abs=0.01 * deviation * max(cost, 0) + 1e-9)


def model_of(rng: np.random.Generator, reference: tuple[float, float]) -> AcquisitionModel:
    """Return a model of twelve trials whose values and costs lie between 1 and 2."""
    features, costs = rng.uniform(size=(12, 2)), rng.uniform(1, 2, 12)
    curves = [[value] for value in 2.5 - 0.5 * costs - rng.uniform(0, 0.5, 12)]
    return AcquisitionModel.of(curves, costs, features, np.array([0, 1]), reference=reference)


def front_of(model: AcquisitionModel) -> np.ndarray:
    """Return the members of a model's front by cost."""
    front = moocore.filter_dominated(model.points, maximise=True)
    return front[np.argsort(front[:, 1])]


def test_the_gain_of_a_repetition_is_what_chance_adds_to_the_front():
    rng = np.random.default_rng(0)
    model = model_of(rng, (0.5, 0.5))
    before, front = moocore.hypervolume(model.points, ref=[0.5, 0.5], maximise=True), front_of(model)
    assert len(front) > 2

    def drawn(member):
        points = rng.normal(member, (0.05, 0.02), size=(4000, 2))
        points[:, 1] = member[1] + np.where(points[:, 1] > member[1], 0.02, -0.02)
        volumes = [moocore.hypervolume(np.vstack([model.points, p]), ref=[0.5, 0.5], maximise=True) for p in points]
        return np.mean(volumes) - before

    gains = [drawn(member) for member in front]
    near = (front[0, 1] + front[1, 1]) / 2
    assert model.repeat_gain(0.05, 0.02, near) == pytest.approx(max(gains[:2]), rel=0.05)
    assert model.repeat_gain(0.05, 0.02, front[0, 1] - 0.1) == pytest.approx(gains[0], rel=0.05)
    assert model.repeat_gain(0.05, 0.02, front[-1, 1] + 0.1) == pytest.approx(gains[-1], rel=0.05)
    assert model.repeat_gain(0.0, 0.0, near) == pytest.approx(0.0, abs=1e-8)


def test_the_noise_inside_a_front_is_the_same_however_far_the_reference_is():
    near_and_far = [model_of(np.random.default_rng(0), (0.5, cost)) for cost in (0.5, -8.0)]
    front = front_of(near_and_far[0])
    inside = (front[-1, 1] + front[-2, 1]) / 2
    first, second = (model.repeat_gain(0.05, 0.0, inside) for model in near_and_far)
    assert first == pytest.approx(second)


def test_a_cost_that_is_not_finite_gains_nothing():
    model = model_of(np.random.default_rng(0), (0.5, 0.5))
    gains = model.gains(np.full((3, 2), 0.5), np.array([np.nan, np.inf, 2.0]))
    assert list(gains[:2]) == [0.0, 0.0]
    assert gains[2] > 0


def test_what_is_on_its_way_is_less_in_doubt():
    model, at = model_of(np.random.default_rng(0), (0.5, 0.5)), np.full((1, 2), 3.0)
    waiting = model.with_pending(at, np.array([1.5]))
    assert len(waiting.points) == len(model.points) + 1
    assert waiting.qualities.predict(at)[1] < 0.9 * model.qualities.predict(at)[1]


def test_without_a_front_a_repetition_gains_nothing():
    assert model_of(np.random.default_rng(0), (3.0, 3.0)).repeat_gain(0.05, 0.02, 1.5) == 0.0


@pytest.mark.parametrize("curve", [[-np.inf], [-0.5]], ids=["failed", "diverged"])
def test_one_bad_trial_does_not_hide_the_differences_of_the_others(curve):
    rng = np.random.default_rng(0)
    features = rng.uniform(size=(90, 4))
    values = 0.45 + 0.1 * features @ [0.6, -0.4, 0.3, 0.1]
    groups, costs, trained = np.arange(4), rng.uniform(-2, 2, 60), [[value] for value in values[:60]]

    curves = [*trained[:30], curve, *trained[31:]]
    model = AcquisitionModel.of(curves, costs, features[:60], groups, reference=(0.0, -3.0))
    assert np.corrcoef(model.qualities.predict(features[60:])[0], values[60:])[0, 1] > 0.95


def test_a_failure_says_little_of_its_neighbors():
    features = np.random.default_rng(0).uniform(size=(40, 1))
    values = 0.3 + 0.3 * features[:, 0]
    failed = int(np.argsort(values)[-4])
    curves = [[-np.inf] if i == failed else [value] for i, value in enumerate(values)]
    model = AcquisitionModel.of(curves, np.zeros(40), features, np.array([0]), reference=(0.0, -3.0))
    assert model.qualities.predict(features[[failed]])[0][0] == pytest.approx(values[failed], abs=0.01)
