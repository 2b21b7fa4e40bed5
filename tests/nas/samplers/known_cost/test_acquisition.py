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


def test_the_gain_of_a_repetition_is_what_chance_adds_to_the_front():
    rng = np.random.default_rng(0)
    features = rng.uniform(size=(12, 2))
    curves, costs = [[value] for value in rng.uniform(1, 2, 12)], rng.uniform(1, 2, 12)
    model = AcquisitionModel.of(curves, costs, features, np.array([0, 1]), reference=(0.5, 0.5))
    before = moocore.hypervolume(model.points, ref=[0.5, 0.5], maximise=True)

    def drawn(member):
        points = rng.normal(member, (0.05, 0.02), size=(4000, 2))
        points[:, 1] = member[1] + np.where(points[:, 1] > member[1], 0.02, -0.02)
        volumes = [moocore.hypervolume(np.vstack([model.points, p]), ref=[0.5, 0.5], maximise=True) for p in points]
        return np.mean(volumes) - before

    expected = max(drawn(member) for member in model.points)
    assert model.repeat_gain(0.05, 0.02) == pytest.approx(expected, rel=0.05)
    assert model.repeat_gain(0.0, 0.0) == pytest.approx(0.0, abs=1e-8)
