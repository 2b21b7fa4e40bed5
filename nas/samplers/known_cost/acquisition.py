"""What trials say of candidates: how good they may be, and by how much they would push the front out. Arrays only.

Expected hypervolume improvement of candidates whose cost is known: exact, by a sum over the front.

With its cost fixed, what a candidate adds to the dominated area is a sum of strips, one between each pair of neighbours
on the front, each as high as its quality exceeds the front there. So the expectation is a sum of one-dimensional
expected improvements. Both axes are maximised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from nas.samplers.known_cost.fidelity import at_last_rung
from nas.samplers.known_cost.gaussian_process import GaussianProcess

Array = NDArray[np.float64]

BELOW = 0.3  # qualities further under the reference than this part of the best one's height over it are all as bad
LEAST = 1e-9  # of the values' own deviation


@dataclass(frozen=True, eq=False)
class AcquisitionModel:
    """Made by `of`. Quality and cost are both maximised here."""

    qualities: GaussianProcess
    costs: GaussianProcess | None  # where candidates don't come with theirs
    points: Array  # (n, 2) quality and cost of trials that are final, or expected of those on their way
    reference: tuple[float, float]

    @classmethod
    def of(
        cls,
        histories: Sequence[Sequence[float]],
        costs: Array,
        features: Array,
        groups: NDArray[np.int64],
        *,
        rungs: int = 1,
        running: NDArray[np.bool_] | None = None,
        reference: tuple[float, float] | None = None,
        noise: float = 0.0,
        priced: bool = True,
    ) -> AcquisitionModel:
        """From each trial's qualities rung by rung, cost (n,; NaN is unknown) and features (n, d; `groups` (d,)).

        A history of [-inf] is that of a trial that came to nothing; at least one is finite, with a finite cost.
        `running` (n,) says which are not over: what they are expected to reach others need not try to beat.
        `noise` is the variance of a quality between repetitions; `reference` by default the worst quarter and the worst
        cost. `priced`: whether candidates will come with their costs; otherwise those are modelled as well.
        """
        alive = np.array([np.isfinite(history[-1]) for history in histories])
        values, doubts = np.full(len(histories), -np.inf), np.zeros(len(histories))
        values[alive], doubts[alive] = at_last_rung(
            [h for h, lives in zip(histories, alive, strict=True) if lives], rungs
        )
        known, unknown = np.isfinite(costs), np.isnan(costs)
        prices = None
        if known.any() and (not priced or unknown.any()):
            prices = GaussianProcess.fit(features[known], costs[known], groups=groups, noise=np.zeros(known.sum()))
            costs = np.where(unknown, prices.predict(features)[0], costs)
        low, far = reference or (float(np.quantile(values[alive], 0.25)), _worst(costs[known]))
        best = float(values.max())
        worst = low - BELOW * (best - low) if best > low else float(values[alive].min())
        worth = np.maximum(values, worst)
        variances = doubts + noise
        model = GaussianProcess.fit(features, worth, groups=groups, noise=variances)
        counted = np.array([len(history) >= rungs for history in histories])
        if running is not None:
            counted |= running
        points = np.column_stack([model.smoothed(worth, variances), costs])[counted & alive]
        return cls(model, prices, points, (low, far))

    def expecting(self, features: Array, costs: Array | None) -> AcquisitionModel:
        """The same while trials with these features (m, d) and costs (m,) are on their way; None: modelled."""
        expected, _ = self.qualities.predict(features)
        on_the_way = np.column_stack([expected, self._priced(features) if costs is None else costs])
        points = np.vstack([self.points, on_the_way])
        return AcquisitionModel(self.qualities.expecting(features), self.costs, points, self.reference)

    def gains(self, features: Array, costs: Array | None) -> Array:
        """Expected hypervolume improvement of each candidate, (m,); 0 where its cost isn't finite; None: modelled."""
        mean, deviation = self.qualities.predict(features)
        deviation = np.maximum(deviation, LEAST * self.qualities.unit)
        asked = self._priced(features) if costs is None else costs
        asked = np.where(np.isfinite(asked), asked, -np.inf)
        return expected_hypervolume_improvement(mean, deviation, asked, self.points, self.reference)

    def _priced(self, features: Array) -> Array:
        if self.costs is None:
            raise ValueError("the candidates come without costs")
        return self.costs.predict(features)[0]


def _worst(costs: Array) -> float:
    """The lowest; where all cost the same a little less, for otherwise nothing would exceed it."""
    lowest = float(costs.min(initial=np.inf))
    return lowest - 1.0 if lowest == costs.max(initial=-np.inf) else lowest


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
