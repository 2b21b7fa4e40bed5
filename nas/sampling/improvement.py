"""Expected hypervolume improvement of candidates whose cost is known: exact, by a sum over the front.

With its cost fixed, what a candidate adds to the dominated area is a sum of strips, one between each pair of neighbours
on the front, each as high as its quality exceeds the front there. So the expectation is a sum of one-dimensional
expected improvements. Both axes are maximised.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]


def expected_improvement(mean: Array, deviation: Array, above: Array | float) -> Array:
    """E[max(0, q - above)] of q ~ N(mean, deviation^2), by broadcasting; deviations must be over 0."""
    z = (mean - above) / deviation
    expected: Array = deviation * (z * ndtr(z) + np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi))
    return np.maximum(expected, 0.0)


def expected_hypervolume_improvement(
    mean: Array, deviation: Array, cost: Array, points: Array, reference: tuple[float, float]
) -> Array:
    """Of candidates (m,) with quality N(mean, deviation^2) and exact cost, over `points` (n, 2): quality, cost.

    `reference` is (quality, cost); points that don't exceed it in both count as absent.
    """
    levels, falls = _staircase(points, reference)
    # Strip i lies between falls[i + 1] (exclusive) and falls[i]; its floor is levels[i].
    widths = np.clip(np.minimum(cost[:, None], falls[None, :-1]) - falls[None, 1:], 0.0, None)
    improvement = expected_improvement(mean[:, None], deviation[:, None], levels[None])
    total: Array = (widths * improvement).sum(axis=1)
    return total


def _staircase(points: Array, reference: tuple[float, float]) -> tuple[Array, Array]:
    """The front as steps: quality levels, rising, and the costs where they begin and end, falling (one more)."""
    levels, falls = [reference[0]], [np.inf]
    known = points[~np.isnan(points).any(axis=1)]  # a trial under way may have turned out to be what is not asked
    for quality, cost in sorted(map(tuple, known), key=lambda p: (-p[1], -p[0])):
        if quality > levels[-1] and cost > reference[1]:
            levels.append(quality)
            falls.append(cost)
    return np.array(levels), np.array([*falls, reference[1]])
