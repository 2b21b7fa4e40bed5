"""Predict the last rung's value from lower rungs, so that short trainings inform without posing as long ones.

From rung to rung a line is fitted through the trials that have both values, and the scatter around it becomes noise.
Trials are promoted by their value at the lower rung; a regression on that value is not biased by the selection.
Source: the autoregressive model of Kennedy and O'Hagan, 2000, in its linear form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PRIOR_PAIRS = 3.0  # pairs that the prior slope of 1 weighs as much as
MIN_SCATTER = 1e-3  # of the variance of the values at the lower rung: no line is exact


class _Step(NamedTuple):
    """The line next = offset + slope * value, with residual variance `scatter`."""

    offset: float
    slope: float
    scatter: float


def at_last_rung(curves: Sequence[Sequence[float]], rungs: int) -> tuple[Array, Array]:
    """Return the expected value of each trial at the last rung and its variance, (n,) each.

    Values of the last rung are exact here, with variance 0.

    Args:
        curves: values of each trial rung by rung, at least one, at most `rungs`.
        rungs: number of rungs.
    """
    steps: list[_Step] = []
    variance_at_rung = 0.0
    for rung in range(rungs - 1):
        at_rung = [c[rung] for c in curves if len(c) > rung]
        variance_at_rung = float(np.var(at_rung)) if at_rung else variance_at_rung
        steps.append(_fit_step([(c[rung], c[rung + 1]) for c in curves if len(c) > rung + 1], variance_at_rung))
    values, variances = np.empty(len(curves)), np.empty(len(curves))
    for i, curve in enumerate(curves):
        value, variance = curve[-1], 0.0
        for step in steps[len(curve) - 1 :]:
            value, variance = step.offset + step.slope * value, step.slope**2 * variance + step.scatter
        values[i], variances[i] = value, variance
    return values, variances


def _fit_step(pairs: Sequence[tuple[float, float]], lower_variance: float) -> _Step:
    """Fit a line by least squares, its slope shrunk to 1 where pairs are few.

    With one pair the scatter is the square of its rise. Without pairs the next rung repeats this one's values, with a
    scatter of their variance.
    """
    if not pairs:
        return _Step(0.0, 1.0, lower_variance)
    lower, upper = np.array(pairs).T
    lower_centered, upper_centered = lower - lower.mean(), upper - upper.mean()
    spread = float(lower_centered @ lower_centered)
    prior = PRIOR_PAIRS * spread / len(pairs)
    slope = (float(lower_centered @ upper_centered) + prior) / (spread + prior) if spread > 0 else 1.0
    offset = float(upper.mean() - slope * lower.mean())
    left = upper - offset - slope * lower
    rise = float(np.mean((upper - lower) ** 2))
    scatter = (float(left @ left) + rise) / len(pairs) if len(pairs) < 4 else float(left @ left) / (len(pairs) - 2)
    return _Step(offset, slope, max(scatter, MIN_SCATTER * lower_variance))
