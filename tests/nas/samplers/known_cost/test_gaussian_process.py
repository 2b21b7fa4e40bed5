"""The Gaussian process: what it must know, what it must not, and its scales."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from nas.samplers.known_cost import gaussian_process
from nas.samplers.known_cost.gaussian_process import SIZES, GaussianProcess


def data(n=40, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.uniform(size=(n, 3))
    return features, np.sin(5 * features[:, 0]) + features[:, 1]  # the third says nothing


GROUPS = np.arange(3)


def fitted(features, values, noise=0.0, groups=GROUPS):
    return GaussianProcess.fit(features, values, groups=groups, noise=np.full(len(values), noise))


def test_predicts_what_it_has_not_seen():
    features, values = data(80)
    new, truth = data(50, seed=1)
    mean, deviation = fitted(features, values).predict(new)
    assert np.sqrt(np.mean((mean - truth) ** 2)) < 0.1 * truth.std()
    assert np.mean(np.abs(mean - truth) < 2 * deviation) > 0.8


def test_a_feature_that_says_nothing_gets_the_longest_scale():
    model = fitted(*data(80))
    assert model.scaling[2] < 0.3 * min(model.scaling[:2])


def test_features_of_a_group_share_their_scale():
    features, values = data()
    model = fitted(features, values, groups=np.array([0, 1, 1]))
    assert model.scaling[1] == model.scaling[2] != model.scaling[0]


def test_scales_are_found_by_the_gradient_of_the_posterior(monkeypatch):
    seen = {}

    def minimize(loss, start, **_):
        seen["loss"], seen["start"] = loss, start
        return type("Found", (), {"x": start})

    monkeypatch.setattr(gaussian_process, "minimize", minimize)
    features, values = data(15)
    for groups, step in (([0, 1, 1], [0.5, -1.0, 0.3, 1.0]), ([0, SIZES, SIZES], [0.5, 0.3, 1.0, -0.6])):
        GaussianProcess.fit(features, values, groups=np.array(groups), noise=np.linspace(0, 0.1, 15))
        at = seen["start"] + np.array(step)
        _, gradient = seen["loss"](at)
        slope = approx_fprime(at, lambda scales: seen["loss"](scales)[0], 1e-6)
        assert gradient == pytest.approx(slope, rel=1e-3, abs=1e-3)


def test_noisy_values_are_smoothed_and_exact_ones_are_not():
    features, values = data()
    noisy = values + np.random.default_rng(2).normal(0, 0.3, len(values))
    model = fitted(features, noisy, noise=0.09)
    smoothed = model.smoothed(noisy, np.full(len(noisy), 0.09))
    assert np.mean((smoothed - values) ** 2) < 0.7 * np.mean((noisy - values) ** 2)
    assert fitted(features, noisy).smoothed(noisy, np.zeros(len(noisy))) == pytest.approx(noisy)


@pytest.mark.parametrize("groups", [[0, 1, 2], [0, 1, SIZES]])
def test_what_is_on_its_way_leaves_means_and_takes_doubt_from_its_neighbours(groups):
    features, values = data()
    values = values + 0.3 * features[:, 2]
    model = fitted(features, values, groups=np.array(groups))
    new = np.array([[0.5, 0.5, 0.5], [3.0, 3.0, 3.0]])
    waiting = model.with_pending(new[1:])
    mean, deviation = model.predict(new)
    mean_then, deviation_then = waiting.predict(new)
    assert mean_then == pytest.approx(mean)
    assert deviation_then[0] == pytest.approx(deviation[0], rel=1e-3)
    assert deviation_then[1] < 0.5 * deviation[1]
    again = waiting.with_pending(new[:1])
    radial, linear = again.features[:, ~model.sizes], again.features[:, model.sizes]
    covariance = model.signal * np.exp(-((radial[:, None] - radial[None]) ** 2).sum(-1)) + linear @ linear.T
    covariance += np.eye(len(covariance)) * (model.nugget + gaussian_process.JITTER)
    assert again.factor @ again.factor.T == pytest.approx(covariance)


def test_a_trend_over_sizes_holds_beyond_the_observations():
    rng = np.random.default_rng(0)
    sizes, other = rng.uniform(size=(20, 2)), rng.uniform(size=(20, 1))
    values = sizes @ [3.0, 1.0] + 0.1 * np.sin(5 * other[:, 0])
    large = np.array([[4.0, 4.0, 0.5]])
    model = fitted(np.hstack([sizes, other]), values, groups=np.array([SIZES, SIZES, 0]))
    mean, deviation = model.predict(large)
    assert mean[0] == pytest.approx(16.0, abs=1.0)
    assert abs(mean[0] - 16.0) < 3 * deviation[0]
    assert model.linear_share > 0.5
    without, _ = fitted(np.hstack([sizes, other]), values, groups=np.array([0, 1, 2])).predict(large)
    assert without[0] < 8


def test_sizes_that_say_nothing_get_no_share():
    features, values = data(80)
    sizes = np.random.default_rng(3).uniform(size=(80, 4))
    plain, groups = fitted(features, values), np.array([0, 1, 2, *[SIZES] * 4])
    model = fitted(np.hstack([features, sizes]), values, groups=groups)
    assert model.linear_share < 0.01
    equal = fitted(np.hstack([features, np.ones((80, 4))]), values, groups=groups)
    new, _ = data(20, seed=1)
    assert equal.linear_share == 0.0
    assert equal.predict(np.hstack([new, np.ones((20, 4))]))[0] == pytest.approx(plain.predict(new)[0])


@pytest.mark.parametrize("values", [np.zeros(5), np.array([1e-12, 0, 0, 0, 0]), 1e9 * np.arange(5.0)])
def test_any_scale_of_values(values):
    features, _ = data(5)
    mean, deviation = fitted(features, values).predict(features)
    assert np.isfinite(mean).all()
    assert np.isfinite(deviation).all()


def test_one_observation_is_enough():
    features, values = data(1)
    mean, _ = fitted(features, values).predict(features)
    assert mean == pytest.approx(values)
