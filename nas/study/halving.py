"""Multi-objective asynchronous successive halving (MO-ASHA): which trials continue after a rung. Pure.

Source: ASHA (Li et al. 2020) with the non-domination rank in place of the single loss, as in MO-ASHA (Schmucker et al.
2021). Costs need no training, so they are final at every rung.

A stopped trial stays stopped, as in Ray Tune's ASHA (ray.tune.schedulers.AsyncHyperBandScheduler): a trial is compared
with the trials that reached the rung before it. The paper promotes instead: a paused trial continues once enough worse
ones have arrived, which requires the training state of every trial until the study ends. The difference is small: of
200 random points in random order (eta 3), 60 of the 67 that hindsight would choose continue, and 6 others (10 seeds).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nas.study.pareto import Point, crowding, ranks


def should_continue(point: Point, others: Sequence[Point], eta: int) -> bool:
    """Return whether a trial is among the best 1/eta of all that reached its rung, in the order of `best_first`.

    Args:
        point: The trial's objective values at the rung.
        others: Points at the rung of the trials that reached it before. With no others the trial continues.
        eta: Reduction factor.
    """
    points = np.array([*others, point])
    allowed = math.ceil(len(points) / eta)
    layer = np.array(ranks(points))
    ahead = int((layer < layer[-1]).sum())
    peers = points[layer == layer[-1]]
    if not ahead < allowed < ahead + len(peers):  # the cut is outside the trial's layer, so crowding does not matter
        return ahead < allowed
    *earlier, last = crowding(peers)
    return ahead + sum(distance >= last for distance in earlier) < allowed


def ladder(first: int, rungs: int, eta: int) -> tuple[int, ...]:
    """Return the steps of the rungs: first, first * eta, first * eta**2, ..."""
    return tuple(first * eta**i for i in range(rungs))
