"""A study's objectives: quality and throughput in searches; else one of them alone, or metrics too."""

from __future__ import annotations

import math
from typing import Any

from nas.records import Objective, StudyInfo, TrialRecord

UNDECLARED = {  # how axes are labelled that are measured and not searched for
    "quality": Objective("quality", "quality", "", reference=0.0),
    "throughput": Objective("throughput", "throughput relative to the reference backbone", "x", 0.125, log=True),
}


def axis(info: StudyInfo, name: str) -> Objective:
    """The objective "quality" or "throughput", also where the study measures it without searching for it."""
    return next((o for o in info.objectives if o.name == name), UNDECLARED[name])


def value_of(trial: TrialRecord, name: str) -> float | None:
    """Of one objective at the highest rung reached: beside the two, a metric there or a field of the measurement."""
    if not trial.rungs or trial.measurement is None:
        return None
    known = {"quality": trial.rungs[-1].quality, "throughput": trial.measurement.ratio, **trial.rungs[-1].metrics}
    value: Any = known.get(name, getattr(trial.measurement, name, None))
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def values_of(trial: TrialRecord, info: StudyInfo) -> tuple[float, ...] | None:
    """Of all objectives; None where one is unknown or has no place on its axis."""
    values = []
    for objective in info.objectives:
        value = value_of(trial, objective.name)
        if value is None or (objective.log and value <= 0):
            return None
        values.append(value)
    return tuple(values)
