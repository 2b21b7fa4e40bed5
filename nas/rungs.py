"""Multi-objective asynchronous successive halving: who may train on. A pure decision.

Source: ASHA (Li et al. 2020) with non-domination rank in the place of the single loss, as in MO-ASHA
(Schmucker et al. 2021). Cost needs no training, so it counts in full at every rung.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from nas.pareto import Point, best_first


def goes_on(point: Point, others: Sequence[Point], eta: int) -> bool:
    """Whether a trial at `point` is among the best 1/eta of all that reached its rung so far.

    `others` are the points at this rung of the trials that came before; the first trials always go on.
    """
    standing = best_first([*others, point])
    allowed = math.ceil(len(standing) / eta)
    return len(others) in standing[:allowed]


def ladder(first: int, rungs: int, eta: int) -> tuple[int, ...]:
    """Steps at which the rungs lie: `first`, first * eta, ..."""
    return tuple(first * eta**i for i in range(rungs))
