"""Multi-objective asynchronous successive halving (MO-ASHA): which trials continue after a rung. Pure.

Source: ASHA (Li et al. 2020) with the non-domination rank in place of the single loss, as in MO-ASHA (Schmucker et al.
2021). Costs need no training, so they are final at every rung, but for a throughput that is predicted up to the last.

A stopped trial stays stopped, as in Ray Tune's ASHA (ray.tune.schedulers.AsyncHyperBandScheduler): a trial is compared
with the trials that reached the rung before it. The paper promotes instead: a paused trial continues once enough worse
ones have arrived, which requires the training state of every trial until the study ends. The difference is small: of
200 random points in random order (eta 3), 60 of the 67 that hindsight would choose continue, and 6 others (10 seeds).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nas.fidelity import at_last_rung
from nas.study.pareto import Point, coordinates, crowding, hypervolume, ranks
from nas.study.records import Objective, TrialRecord, TrialState

TRUSTED_DEVIATION = 0.08  # relative, of a predicted throughput: below it a candidate is measured before the last rung
WIDTH = 2 * 1.959964  # standard deviations in a 95 % interval


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


class ScoreCurve(NamedTuple):
    """A trial's scores so far and its costs, on axes where more is better.

    Attributes:
        number: Number of the trial.
        scores: Scores rung by rung, at least one.
        costs: Values of the other objectives.
        alive: Whether the trial is complete or still trains, so that it can be on the front.
    """

    number: int
    scores: tuple[float, ...]
    costs: Point
    alive: bool

    def is_rival_of(self, trial: ScoreCurve) -> bool:
        """Return whether this trial has passed the rung that `trial` asks about, so that both may be on the front."""
        return self.alive and len(self.scores) >= len(trial.scores)


def score_curve(trial: TrialRecord, objectives: Sequence[Objective]) -> ScoreCurve | None:
    """Return a trial's scores and costs; None for a baseline and for a trial without a value of an objective."""
    point = None if trial.baseline or not trial.rungs else coordinates(trial, objectives, len(trial.rungs) - 1)
    if point is None:
        return None
    costs = tuple(value for o, value in zip(objectives, point, strict=True) if o.name != "score")
    return ScoreCurve(
        trial.number,
        tuple(result.score for result in trial.rungs),
        costs,
        trial.state in (TrialState.COMPLETE, TrialState.RUNNING),
    )


def front_gain(trial: ScoreCurve, others: Sequence[ScoreCurve], rungs: int, reference: Point) -> float:
    """Return the hypervolume that a trial, trained to the last rung, would add to that of the rivals among `others`.

    It is a share of the rivals' hypervolume, infinite where they have none. Final scores are predicted from the scores
    so far of all trials (`nas.fidelity`); their means count. Trials that have passed the trial's rung and still
    train are rivals, too: without them, every trial of a large first wave would pass.

    Args:
        trial: The trial.
        others: The other trials, early-stopped ones included, which inform the prediction.
        rungs: Number of rungs.
        reference: Coordinates of the hypervolume's reference point: that of the score, then those of the costs.
    """
    curves = [*sorted(others), trial]
    mean, _ = at_last_rung([curve.scores for curve in curves], rungs)
    points = [(float(score), *curve.costs) for score, curve in zip(mean, curves, strict=True)]
    rivals = [point for point, curve in zip(points[:-1], curves[:-1], strict=True) if curve.is_rival_of(trial)]
    before, after = hypervolume(rivals, reference), hypervolume([*rivals, points[-1]], reference)
    if not before:
        return math.inf if after else 0.0
    return after / before - 1


def ladder(first: int, rungs: int, eta: int) -> tuple[int, ...]:
    """Return the steps of the rungs: first, first * eta, first * eta**2, ..."""
    return tuple(first * eta**i for i in range(rungs))
