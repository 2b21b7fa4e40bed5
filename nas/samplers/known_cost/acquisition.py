"""Expected hypervolume improvement of candidates whose cost is known, and the models behind it. Arrays only.

With its cost fixed, a candidate adds strips to the dominated area, one between each pair of neighbors on the front; the
height of a strip is the amount by which the candidate's first objective exceeds the front there. So the expectation is
an exact sum of one-dimensional expected improvements. Both axes are maximized.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from nas.fidelity import at_last_rung
from nas.samplers.known_cost.gaussian_process import GaussianProcess

Array = NDArray[np.float64]

CLIP_BELOW = 0.3  # values are clipped at the reference minus this share of the best value's height above it,
OUTLIERS = 3.0  # and at the lower quartile minus this many interquartile ranges (Tukey's outer fence)
MIN_DEVIATION = 1e-9  # in units of the values' own deviation


def expected_improvement(mean: Array, deviation: Array, above: Array | float) -> Array:
    """Return E[max(0, q - above)] of q ~ N(mean, deviation^2), by broadcasting; deviations must be positive."""
    z = (mean - above) / deviation
    expected: Array = deviation * (z * ndtr(z) + np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi))
    return np.maximum(expected, 0.0)


def expected_hypervolume_improvement(
    mean: Array, deviation: Array, cost: Array, points: Array, reference: tuple[float, float]
) -> Array:
    """Return the expected gain in dominated area of each candidate, (m,).

    Args:
        mean: first objective of the candidates, (m,).
        deviation: its standard deviation, (m,).
        cost: second objective of the candidates, exact, (m,).
        points: both objectives of the trials, (n, 2).
        reference: both objectives; points that don't exceed it in both are ignored.
    """
    levels, falls = _staircase(points, reference)
    # Strip i lies between falls[i + 1] (exclusive) and falls[i]; its floor is levels[i].
    widths = np.clip(np.minimum(cost[:, None], falls[None, :-1]) - falls[None, 1:], 0.0, None)
    improvement = expected_improvement(mean[:, None], deviation[:, None], levels[None])
    total: Array = (widths * improvement).sum(axis=1)
    return total


def _staircase(points: Array, reference: tuple[float, float]) -> tuple[Array, Array]:
    """Return the front as steps: rising levels of the first objective, falling costs at their ends (one more)."""
    levels, falls = [reference[0]], [np.inf]
    finite = points[~np.isnan(points).any(axis=1)]  # a running trial may break a limit, its cost is NaN then
    for quality, cost in sorted(map(tuple, finite), key=lambda p: (-p[1], -p[0])):
        if quality > levels[-1] and cost > reference[1]:
            levels.append(quality)
            falls.append(cost)
    return np.array(levels), np.array([*falls, reference[1]])


@dataclass(frozen=True, eq=False)
class AcquisitionModel:
    """Models of both objectives and the front so far; made by `of`. Both objectives are maximized here."""

    qualities: GaussianProcess
    costs: GaussianProcess | None  # None where every candidate comes with its cost
    points: Array  # (n, 2): both objectives of final trials, and the expected ones of running trials
    reference: tuple[float, float]

    @classmethod
    def of(
        cls,
        curves: Sequence[Sequence[float]],
        costs: Array,
        features: Array,
        groups: NDArray[np.int64],
        *,
        rungs: int = 1,
        running: NDArray[np.bool_] | None = None,
        reference: tuple[float, float] | None = None,
        priced: bool = True,
    ) -> AcquisitionModel:
        """Fit the models to n trials.

        Args:
            curves: first objective of each trial rung by rung; [-inf] for a failure, which counts as the worst value
                with the variance of all. At least one curve is finite, and its cost too.
            costs: second objective of each trial, (n,); NaN where unknown.
            features: (n, d).
            groups: the group of each feature, (d,), as in `GaussianProcess.fit`.
            rungs: rungs of a trial that is trained to the end.
            running: trials that are not over, (n,). Their expected values count as points of the front.
            reference: both objectives; by default the worst quarter of the first and the worst cost.
            priced: whether candidates will come with their costs; otherwise costs are modeled as well.
        """
        alive = np.array([np.isfinite(curve[-1]) for curve in curves])
        reached, variances = at_last_rung([c for c, lives in zip(curves, alive, strict=True) if lives], rungs)
        # An exact value far below all others would stretch the model's scale, and hide the differences of the others.
        values, doubts = np.full(len(curves), reached.min()), np.full(len(curves), reached.var())
        values[alive], doubts[alive] = reached, variances
        known, unknown = np.isfinite(costs), np.isnan(costs)
        cost_model = None
        if known.any() and (not priced or unknown.any()):
            cost_model = GaussianProcess.fit(features[known], costs[known], groups=groups, noise=np.zeros(known.sum()))
            costs = np.where(unknown, cost_model.predict(features)[0], costs)
        low, far = reference or (float(np.quantile(reached, 0.25)), _worst(costs[known]))
        clipped = np.maximum(values, _floor(reached, low))
        model = GaussianProcess.fit(features, clipped, groups=groups, noise=doubts)
        counted = np.array([len(curve) >= rungs for curve in curves])
        if running is not None:
            counted |= running
        points = np.column_stack([model.smoothed(clipped, doubts), costs])[counted & alive]
        return cls(model, cost_model, points, (low, far))

    def with_pending(self, features: Array, costs: Array | None) -> AcquisitionModel:
        """Return the model as if pending trials had reached their expected values.

        Args:
            features: (m, d), of the pending trials.
            costs: (m,); None: modeled.
        """
        expected, _ = self.qualities.predict(features)
        pending = np.column_stack([expected, self._predicted_costs(features) if costs is None else costs])
        points = np.vstack([self.points, pending])
        return AcquisitionModel(self.qualities.with_pending(features), self.costs, points, self.reference)

    def gains(self, features: Array, costs: Array | None) -> Array:
        """Return the expected hypervolume improvement of each candidate, (m,).

        Args:
            features: (m, d), of the candidates.
            costs: (m,); a cost that isn't finite makes the gain 0. None: modeled.
        """
        mean, deviation = self.qualities.predict(features)
        deviation = np.maximum(deviation, MIN_DEVIATION * self.qualities.unit)
        cost = self._predicted_costs(features) if costs is None else costs
        cost = np.where(np.isfinite(cost), cost, -np.inf)
        return expected_hypervolume_improvement(mean, deviation, cost, self.points, self.reference)

    def expected(self, features: Array, costs: Array | None) -> tuple[Array, Array]:
        """Return the expected first objective of each candidate and its cost, (m,) each; `costs` as for `gains`."""
        return self.qualities.predict(features)[0], self._predicted_costs(features) if costs is None else costs

    def repeat_gain(self, deviation: float, cost_deviation: float, near: float) -> float:
        """Return what a repetition of a member of the front would seem to gain by chance.

        A repetition scatters around the member: its first objective is normal, its cost one deviation less or more. Of
        the two members between whose costs `near` lies, the one that would gain more counts, so that a candidate is
        compared with noise at its own place on the front.

        Args:
            deviation: standard deviation of the first objective between repetitions.
            cost_deviation: the same of the cost.
            near: cost of the candidate.
        """
        levels, falls = _staircase(self.points, self.reference)
        qualities, costs = levels[1:], falls[1:-1]  # of the members, the costliest first; costs are maximized
        place = int(np.searchsorted(-costs, -near))
        members = slice(max(0, place - 1), place + 1)
        quality, cost = np.tile(qualities[members], 2), np.tile(costs[members], 2)
        cost = cost + np.repeat([-cost_deviation, cost_deviation], len(cost) // 2)
        spread = np.full(len(cost), max(deviation, MIN_DEVIATION * self.qualities.unit))
        gains = expected_hypervolume_improvement(quality, spread, cost, self.points, self.reference)
        return float(gains.reshape(2, -1).mean(axis=0).max(initial=0.0))

    def _predicted_costs(self, features: Array) -> Array:
        if self.costs is None:
            raise ValueError("the candidates come without costs")
        return self.costs.predict(features)[0]


def _floor(values: Array, low: float) -> float:
    """Return where values of the first objective are clipped, given its reference."""
    best, (lower, upper) = float(values.max()), np.quantile(values, (0.25, 0.75))
    floor = low - CLIP_BELOW * (best - low) if best > low else float(values.min())
    return max(floor, float(lower - OUTLIERS * (upper - lower))) if upper > lower else floor


def _worst(costs: Array) -> float:
    """Return the lowest cost, or a little less where all are equal, because no point would exceed it otherwise."""
    lowest = float(costs.min(initial=np.inf))
    return lowest - 1.0 if lowest == costs.max(initial=-np.inf) else lowest
