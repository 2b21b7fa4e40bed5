"""A study's objectives: quality and throughput in searches; else one of them alone, or metrics too."""

from __future__ import annotations

import math

from nas.records import Objective, StudyInfo, TrialRecord

UNDECLARED = {  # how axes are labelled that are measured and not searched for
    "quality": Objective("quality", "quality", "", reference=0.0),
    "throughput": Objective("throughput", "throughput relative to the reference backbone", "x", 0.125, log=True),
}


def axis(info: StudyInfo, name: str) -> Objective:
    """The objective "quality" or "throughput", also where the study measures it without searching for it."""
    return next((o for o in info.objectives if o.name == name), UNDECLARED[name])


def values_of(trial: TrialRecord, info: StudyInfo) -> tuple[float, ...] | None:
    """Of the objectives; None where one is unknown or has no place on its axis."""
    last, m = trial.rungs[-1], trial.measurement
    known = {**last.metrics, "quality": last.quality, "throughput": m.ratio if m else math.nan}
    values = tuple(known.get(o.name, math.nan) for o in info.objectives)
    able = all(math.isfinite(v) and (v > 0 or not o.log) for o, v in zip(info.objectives, values, strict=True))
    return values if able else None
