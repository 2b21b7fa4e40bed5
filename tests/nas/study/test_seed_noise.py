"""The noise of seeds that a study assumes until it has measured its own."""

from __future__ import annotations

import pytest

from nas.study.seed_noise import assumed_noise


@pytest.mark.parametrize(
    ("space", "steps", "deviation"),
    [
        ("laptop", 270, 0.0031),
        ("laptop", 30, 0.0097),
        ("laptop", 60, 0.0097),  # of the shorter training: rather too much
        ("laptop", 20_000, 0.0031),
        ("laptop", None, 0.0031),
        ("micro", 30, 0.0075),
        ("full", 90, 0.0059),
        (None, 90, 0.0059),
    ],
)
def test_the_noise_is_that_of_the_longest_measured_training_that_is_no_longer(
    space: str | None, steps: int | None, deviation: float
) -> None:
    assert assumed_noise(space, steps).deviation == deviation
