"""Multi-objective asynchronous successive halving (MO-ASHA): which trials continue after a rung. Pure.

Source: ASHA (Li et al. 2020) with the non-domination rank in place of the single loss, as in MO-ASHA (Schmucker et al.
2021). Costs need no training, so they are final at every rung, but for a throughput that is predicted at the first one.

A stopped trial stays stopped, as in Ray Tune's ASHA (ray.tune.schedulers.AsyncHyperBandScheduler): a trial is compared
with the trials that reached the rung before it. The paper promotes instead: a paused trial continues once enough worse
ones have arrived, which requires the training state of every trial until the study ends. The difference is small: of
200 random points in random order (eta 3), 60 of the 67 that hindsight would choose continue, and 6 others (10 seeds).

To the last rung, a search may also ask for a chance to be on the front: `front_chance`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nas.fidelity import at_last_rung
from nas.study.pareto import Point, coordinate, coordinates, crowding, hypervolume, ranks
from nas.study.records import Measurement, Objective, TrialRecord, TrialState
from nas.study.timing_doubts import LATENCY_RUN_DEVIATION, bounded_interval

CHANCE_DRAWS = 256  # a chance is off by 0.06 at most (95 %)
TRUSTED_DEVIATION = 0.08  # relative, of a predicted throughput: below it a candidate is measured after the first rung
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
        deviations: Standard deviations of `costs`.
        alive: Whether the trial is complete or still trains, so that it can be on the front.
    """

    number: int
    scores: tuple[float, ...]
    costs: Point
    deviations: Point
    alive: bool

    def is_rival_of(self, trial: ScoreCurve) -> bool:
        """Return whether this trial has passed the rung that `trial` asks about, so that both may be on the front."""
        return self.alive and len(self.scores) >= len(trial.scores)


def score_curve(trial: TrialRecord, objectives: Sequence[Objective]) -> ScoreCurve | None:
    """Return a trial's scores and costs; None for a baseline and for a trial without a value of an objective."""
    point = None if trial.baseline or not trial.rungs else coordinates(trial, objectives, len(trial.rungs) - 1)
    if point is None:
        return None
    costs = [(o, value) for o, value in zip(objectives, point, strict=True) if o.name != "score"]
    return ScoreCurve(
        trial.number,
        tuple(result.score for result in trial.rungs),
        tuple(value for _, value in costs),
        tuple(_deviation(o, trial.measurement) for o, _ in costs),
        trial.state in (TrialState.COMPLETE, TrialState.RUNNING),
    )


def _deviation(objective: Objective, measurement: Measurement | None) -> float:
    """Return the standard deviation of a cost on the axis of `coordinate`: of a timing or prediction; 0 for counts."""
    if objective.name == "latency":
        return math.log2(1 + LATENCY_RUN_DEVIATION)
    if objective.name != "throughput":
        return 0.0
    if measurement is None:
        return math.log2(1 + TRUSTED_DEVIATION)  # the most of one that is not measured yet
    if not measurement.ratio_low > 0:
        return 0.0
    low, high = bounded_interval(measurement)
    return (coordinate(objective, high) - coordinate(objective, low)) / WIDTH


def front_chance(trial: ScoreCurve, others: Sequence[ScoreCurve], rungs: int, seed: int) -> float:
    """Return the chance that a trial, trained to the last rung, is on the front of the rivals among `others`.

    Final scores are predicted from the scores so far of all trials (`nas.fidelity`). The chance is the share of joint
    draws of scores and costs in which no rival dominates the trial. It depends on neither the order of `others` nor
    earlier calls.

    Args:
        trial: The trial.
        others: The other trials, early-stopped ones included, which inform the prediction.
        rungs: Number of rungs.
        seed: Seed of the draws.
    """
    curves = [*sorted(others), trial]
    mean, variance = at_last_rung([curve.scores for curve in curves], rungs)
    counted = [i for i, curve in enumerate(curves) if curve.is_rival_of(trial) or curve is trial]
    costs, deviations = (np.array([getattr(curves[i], name) for i in counted]) for name in ("costs", "deviations"))
    rng = np.random.default_rng((seed, trial.number))
    score = mean[counted] + np.sqrt(variance[counted]) * rng.standard_normal((CHANCE_DRAWS, len(counted)))
    drawn = costs + deviations * rng.standard_normal((CHANCE_DRAWS, *costs.shape))
    values = np.concatenate([score[:, :, None], drawn], axis=2)
    rivals, own = values[:, :-1], values[:, -1:]
    dominates = np.all(rivals >= own, axis=2) & np.any(rivals > own, axis=2)
    return float(1.0 - np.mean(np.any(dominates, axis=1)))


def front_gain(trial: ScoreCurve, others: Sequence[ScoreCurve], rungs: int, reference: Point) -> float:
    """Return the hypervolume that a trial, trained to the last rung, would add to that of the rivals among `others`.

    It is a share of the rivals' hypervolume, infinite where they have none. Final scores are predicted from the scores
    so far of all trials, as by `front_chance`; their means count. Trials that have passed the trial's rung and still
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
