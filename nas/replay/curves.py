"""How much of the true front's hypervolume a search has found after so many evaluations. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas.pareto import hypervolume

Array = NDArray[np.float64]


def shares(
    accuracy: Sequence[float], latency_ms: Sequence[float], reference: tuple[float, float], whole: float
) -> Array:
    """(n,) after 1, 2, ... n evaluations in that order; accuracy is maximised, latency minimised, both linear.

    What was not trained to its end found nothing: its accuracy is -inf.
    """
    floor, slowest = reference
    volume, found = 0.0, []
    front: list[tuple[float, float]] = []
    for point in zip(accuracy, latency_ms, strict=True):
        beyond = point[0] > floor and point[1] < slowest
        if beyond and not any(a >= point[0] and ms <= point[1] for a, ms in front):
            front = [(a, ms) for a, ms in front if not (point[0] >= a and point[1] <= ms)] + [point]
            volume = hypervolume([(a, -ms) for a, ms in front], (floor, -slowest))
        found.append(volume / whole)
    return np.array(found)


def whole_volume(accuracy: ArrayLike, latency_ms: ArrayLike, reference: tuple[float, float]) -> float:
    """The hypervolume of all cells."""
    points = np.column_stack([np.asarray(accuracy), -np.asarray(latency_ms)])
    return hypervolume(points, (reference[0], -reference[1]))


def told(curves: Sequence[Array]) -> dict[str, list[float]]:
    """Median and 5th and 95th percentile over seeds, by number of evaluations: plain JSON data."""
    length = min(map(len, curves))
    rows = np.array([curve[:length] for curve in curves])
    low, middle, high = np.percentile(rows, [5, 50, 95], axis=0)
    return {
        "evaluations": list(range(1, length + 1)),
        "median": [round(float(v), 5) for v in middle],
        "p5": [round(float(v), 5) for v in low],
        "p95": [round(float(v), 5) for v in high],
    }
