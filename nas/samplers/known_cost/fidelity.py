"""What a value of a lower rung says about the last one, so that short trainings inform and never pose as long ones.

From rung to rung a line is fitted through the trials that have both values, and the scatter around it is kept as noise.
Trials go on by their value at the lower rung, which a regression on that value does not mind.
Source of the plan: the autoregressive model of Kennedy and O'Hagan, 2000, in its linear form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TRUSTED_AS = 3.0  # pairs that the prior slope of 1 counts as
LEAST_SCATTER = 1e-3  # of the variance of the values at the lower rung: no line is exact


class _Step(NamedTuple):
    """next = offset + slope * value, give or take sqrt(scatter)."""

    offset: float
    slope: float
    scatter: float


def at_last_rung(histories: Sequence[Sequence[float]], rungs: int) -> tuple[Array, Array]:
    """Expected value at the last of `rungs` rungs and its variance, (n,) each, from each trial's values rung by rung.

    Values of the last rung are exact here, with variance 0. Every history has a value, none more than `rungs`.
    """
    steps: list[_Step] = []
    varied = 0.0
    for rung in range(rungs - 1):
        at_rung = [h[rung] for h in histories if len(h) > rung]
        varied = float(np.var(at_rung)) if at_rung else varied
        steps.append(_step([(h[rung], h[rung + 1]) for h in histories if len(h) > rung + 1], varied))
    values, variances = np.empty(len(histories)), np.empty(len(histories))
    for i, history in enumerate(histories):
        value, variance = history[-1], 0.0
        for step in steps[len(history) - 1 :]:
            value, variance = step.offset + step.slope * value, step.slope**2 * variance + step.scatter
        values[i], variances[i] = value, variance
    return values, variances


def _step(pairs: Sequence[tuple[float, float]], varied: float) -> _Step:
    """Least squares, the slope drawn to 1 where pairs are few; of one pair the scatter is as large as its rise.

    Without any pair what is known of the next rung are the values at this one, give or take as much as these varied.
    """
    if not pairs:
        return _Step(0.0, 1.0, varied)
    lower, upper = np.array(pairs).T
    centred, risen = lower - lower.mean(), upper - upper.mean()
    spread = float(centred @ centred)
    prior = TRUSTED_AS * spread / len(pairs)
    slope = (float(centred @ risen) + prior) / (spread + prior) if spread > 0 else 1.0
    offset = float(upper.mean() - slope * lower.mean())
    left = upper - offset - slope * lower
    rise = float(np.mean((upper - lower) ** 2))
    scatter = (float(left @ left) + rise) / len(pairs) if len(pairs) < 4 else float(left @ left) / (len(pairs) - 2)
    return _Step(offset, slope, max(scatter, LEAST_SCATTER * varied))
