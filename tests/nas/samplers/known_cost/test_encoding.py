"""Parameters as numbers."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from nas.samplers.known_cost.encoding import draw, encode, from_unit, log_sizes, to_unit, vary

NUMBERS = [
    FloatDistribution(-1.0, 3.0),
    FloatDistribution(1e-6, 10.0, log=True),
    FloatDistribution(0.0, 1.0, step=0.25),
    IntDistribution(-3, 9, step=3),
    IntDistribution(1, 100, log=True),
    IntDistribution(4, 4),
]


@given(st.sampled_from(NUMBERS), st.floats(0, 1))
def test_numbers_keep_their_place(distribution, unit):
    value = from_unit(distribution, unit)
    assert distribution._contains(value)
    assert from_unit(distribution, to_unit(distribution, value)) == pytest.approx(value)


@pytest.mark.parametrize("distribution", NUMBERS[2:4])
def test_all_steps_are_equally_likely(distribution):
    rng = random.Random(0)
    _, counts = np.unique([draw(distribution, rng) for _ in range(5000)], return_counts=True)
    assert len(counts) == 5
    assert counts.min() > 850


def test_rising_categories_are_one_feature_and_others_are_equally_far_apart():
    space = {"width": CategoricalDistribution((16, 24, 32)), "block": CategoricalDistribution(("a", "b", "c"))}
    rows, groups = encode(
        space, [{"width": 16, "block": "a"}, {"width": 32, "block": "b"}, {"width": 24, "block": "c"}]
    )
    assert list(groups) == [0, 1, 1, 1]
    assert list(rows[:, 0]) == [0.0, 1.0, 0.5]
    apart = ((rows[:, None, 1:] - rows[None, :, 1:]) ** 2).sum(-1)
    assert apart == pytest.approx(1 - np.eye(3))


def test_no_parameters_are_no_features():
    rows, groups = encode({}, [{}, {}])
    assert rows.shape == (2, 0)
    assert groups.shape == (0,)


def test_sizes_are_the_logarithms_of_positive_numbers():
    space = {
        "width": CategoricalDistribution((16, 32, 64)),
        "rate": FloatDistribution(1e-4, 1e-2),
        "depth": IntDistribution(1, 8, log=True),
        "offset": FloatDistribution(-1.0, 1.0),
        "from_zero": IntDistribution(0, 4),
        "fixed": IntDistribution(3, 3),
        "block": CategoricalDistribution(("a", "b")),
        "falling": CategoricalDistribution((4, 2)),
    }
    least = {"width": 16, "rate": 1e-4, "depth": 1, "offset": 0.0, "from_zero": 0, "fixed": 3, "block": "a"}
    middle = {**least, "width": 32, "rate": 1e-3, "depth": 2}
    sizes = log_sizes(space, [{**params, "falling": 4} for params in (least, middle)])
    assert sizes == pytest.approx(np.array([[0, 0, 0], [1 / 2, 1 / 2, 1 / 3]]))
    assert log_sizes({}, [{}, {}]).shape == (2, 0)


def test_half_of_the_candidates_are_near_their_parents():
    space = {f"p{i}": CategoricalDistribution(tuple("abcde")) for i in range(6)}
    parent = dict.fromkeys(space, "a")
    made = vary(space, [parent], 200, random.Random(0))
    near = [sum(params[name] != "a" for name in space) <= 2 for params in made]
    assert 90 <= sum(near) <= 120
    assert len(vary(space, [], 10, random.Random(0))) == 10
