"""A study's objectives: quality and throughput by default, or quality alone, or with others that are known of a net."""

from __future__ import annotations

import math
from typing import Any

from nas import pareto
from nas.objectives import GOALS
from nas.records import Objective, StudyInfo, TrialRecord


def axis(info: StudyInfo, name: str) -> Objective:
    """The objective "quality" or "throughput", also where the study measures it without searching for it."""
    return next((o for o in info.objectives if o.name == name), GOALS[name].objective)


def value_of(trial: TrialRecord, name: str) -> float | None:
    """Of one objective at the highest rung reached; of a name that is none, a metric there or a measured field."""
    if not trial.rungs or trial.measurement is None:
        return None
    rung = len(trial.rungs) - 1
    if name in GOALS:
        value: Any = GOALS[name].value(trial, rung)
    else:
        value = trial.rungs[rung].metrics.get(name, getattr(trial.measurement, name, None))
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def coordinates_of(trial: TrialRecord, info: StudyInfo) -> tuple[float, ...] | None:
    """Of all objectives, more being better; None where one is unknown or has no place on its axis."""
    places = []
    for objective in info.objectives:
        value = value_of(trial, objective.name)
        if value is None or (objective.log and value <= 0):
            return None
        places.append(pareto.coordinate(objective, value))
    return tuple(places)
