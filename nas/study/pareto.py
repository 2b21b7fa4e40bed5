"""Pareto fronts, non-domination ranks, crowding and hypervolume.

Pure functions over points (rows of objective values); on every axis more is better.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas.study.objectives import value_or_prediction
from nas.study.records import Objective, TrialRecord, TrialState

Point = tuple[float, ...]


def _as_rows(points: ArrayLike) -> NDArray[np.float64]:
    rows = np.asarray(points, dtype=np.float64)
    if rows.ndim != 2 or np.isnan(rows).any():
        raise ValueError("points must be rows of numbers without NaN, one column an objective")
    return rows


def ranks(points: ArrayLike) -> list[int]:
    """Return the non-domination rank of each point: 0 for the front, 1 for the front of the others, and so on.

    Equal points share their rank. Source: NSGA-II (Deb et al. 2002).
    """
    rows = np.asarray(points, dtype=np.float64)
    if len(np.atleast_1d(rows)) == 0:
        return []
    layer: list[int] = np.asarray(moocore.pareto_rank(_as_rows(rows), maximise=True)).tolist()
    return layer


def front(points: ArrayLike) -> list[int]:
    """Return the indices of the non-dominated points, duplicates included."""
    return [i for i, rank in enumerate(ranks(points)) if rank == 0]


def crowding(points: ArrayLike) -> list[float]:
    """Return the crowding distance of each point among `points`; it is infinite at the ends of each objective.

    Source: NSGA-II (Deb et al. 2002).
    """
    rows = _as_rows(points)
    distance = np.zeros(len(rows))
    for column in rows.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        distance[order[[0, -1]]] = math.inf
        if span > 0 and len(rows) > 2:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return [float(d) for d in distance]


def best_first(points: Sequence[Point]) -> list[int]:
    """Return the indices of `points` from best to worst: by non-domination rank, the least crowded first in a rank.

    Deterministic: remaining ties keep their order.
    """
    layer = ranks(points)
    distance = [0.0] * len(points)
    of_rank: defaultdict[int, list[int]] = defaultdict(list)
    for i, rank in enumerate(layer):
        of_rank[rank].append(i)
    for members in of_rank.values():
        for i, d in zip(members, crowding([points[i] for i in members]), strict=True):
            distance[i] = d
    return sorted(range(len(points)), key=lambda i: (layer[i], -distance[i]))


def hypervolume(points: ArrayLike, reference: Sequence[float]) -> float:
    """Return the volume that `points` dominate above `reference`; points that do not exceed it add nothing."""
    if len(np.atleast_1d(np.asarray(points))) == 0:
        return 0.0
    return float(moocore.hypervolume(_as_rows(points), ref=np.asarray(reference, dtype=np.float64), maximise=True))


def coordinate(objective: Objective, value: float) -> float:
    """Return `value` on the axis of the hypervolume: log2 for logarithmic objectives, negated for minimized ones."""
    position = math.log2(value) if objective.log else value
    return -position if objective.minimize else position


def reference_point(objectives: Sequence[Objective]) -> tuple[float, ...]:
    """Return the reference point of the objectives on the axes of `coordinate`."""
    return tuple(coordinate(o, o.reference) for o in objectives)


def coordinates(trial: TrialRecord, objectives: Sequence[Objective], rung: int) -> Point | None:
    """Return the values of all objectives at `rung`, on the axes of `coordinate`; None if one is missing.

    The throughput of a trial that is measured late is the predicted one until then. Any other trial without a
    measurement has no point, nor has an infeasible one, nor one that has not reached `rung`.
    """
    unknown = trial.measurement is None and trial.predicted_ratio is None
    if unknown or trial.state is TrialState.INFEASIBLE or len(trial.rungs) <= rung:
        return None
    values = [value_or_prediction(trial, objective.name, rung) for objective in objectives]
    if any(value is None for value in values):
        return None
    return tuple(coordinate(o, v) for o, v in zip(objectives, values, strict=True) if v is not None)
