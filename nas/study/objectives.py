"""The objectives of a search: their names, and how a trial's value of each is read. Pure.

A new entry of `OBJECTIVES` is a new objective, which a search accepts in ``--objectives``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from nas.study.records import Objective, TrialRecord


class ObjectiveSpec(NamedTuple):
    """An objective with the function that reads it.

    Attributes:
        objective: The objective.
        value: Returns a trial's value at a rung; None if the trial has none (yet).
        trained: Whether the value comes from training. All other values must be there after the measurement.
        quantity: Field of a `Measurement` that the value is read from, or None. Where a device does not report it, a
            search refuses the objective.
        at_every_rung: Whether a trained value exists at every rung; else a search of several rungs refuses the
            objective. Downstream metrics are computed at the last rung only.
    """

    objective: Objective
    value: Callable[[TrialRecord, int], float | None]
    trained: bool = False
    quantity: str | None = None
    at_every_rung: bool = False

    @classmethod
    def measured(cls, objective: Objective, quantity: str) -> ObjectiveSpec:
        """Return an objective whose value is a field of a `Measurement`, the same at every rung.

        Args:
            objective: The objective.
            quantity: Name of the field.
        """

        def value(trial: TrialRecord, rung: int) -> float | None:
            return None if trial.measurement is None else getattr(trial.measurement, quantity)

        return cls(objective, value, quantity=quantity)


def _score(trial: TrialRecord, rung: int) -> float | None:
    return trial.rungs[rung].score if len(trial.rungs) > rung else None


# An objective's reference is the hypervolume's reference coordinate: a value worse than it adds nothing.
OBJECTIVES: dict[str, ObjectiveSpec] = {
    "score": ObjectiveSpec(
        Objective("score", "explained variance of the teachers' features", "", 0.0),
        _score,
        trained=True,
        at_every_rung=True,
    ),
    "throughput": ObjectiveSpec.measured(
        Objective("throughput", "throughput relative to the reference backbone", "x", 0.125, log=True),
        "ratio",
    ),
    "latency": ObjectiveSpec.measured(
        Objective("latency", "latency of one image", "ms", 1000.0, log=True, minimize=True),
        "latency_ms",
    ),
    "memory": ObjectiveSpec.measured(
        Objective("memory", "peak memory", "MiB", 80 * 1024.0, log=True, minimize=True),
        "peak_memory_mib",
    ),
    "params": ObjectiveSpec(
        Objective("params", "parameters", "", 1e9, log=True, minimize=True), lambda trial, rung: trial.params
    ),
    "macs": ObjectiveSpec(
        Objective("macs", "multiply-accumulates of one image", "", 1e12, log=True, minimize=True),
        lambda trial, rung: trial.macs,
    ),
}
SCORE_LABELS = {  # by `DistillConfig.score`
    "spatial": "explained variance of the teachers' spatial features",
    "both": "explained variance of the teachers' features",
}


def on_plane(study_objectives: Sequence[Objective]) -> bool:
    """Return whether a study's objectives are score and throughput."""
    return sorted(objective.name for objective in study_objectives) == ["score", "throughput"]


def check_plane(study_objectives: Sequence[Objective], command: str) -> None:
    """Raise ValueError unless a study's objectives are score and throughput, the only ones that `command` supports."""
    if not on_plane(study_objectives):
        names = ", ".join(objective.name for objective in study_objectives)
        raise ValueError(f"{command}: the study's objectives are {names}; it takes score and throughput")


def objectives(names: tuple[str, ...], score: str) -> tuple[Objective, ...]:
    """Return the objectives of a search.

    Args:
        names: Keys of `OBJECTIVES`, whose order the result has.
        score: Definition of the score, a key of `SCORE_LABELS`.
    """
    named = [OBJECTIVES[name].objective for name in names]
    return tuple(replace(o, label=SCORE_LABELS[score]) if o.name == "score" else o for o in named)


def value_or_prediction(trial: TrialRecord, name: str, rung: int) -> float | None:
    """Return a trial's value of an objective at a rung, a throughput as predicted until it is measured; None without.

    Predictions decide about the rungs before the last only.
    """
    if name == "throughput" and trial.predicted_ratio is not None:
        return trial.predicted_ratio
    return OBJECTIVES[name].value(trial, rung)


def unknown_before_training(trial: TrialRecord, study_objectives: Sequence[Objective]) -> list[str]:
    """Return the labels of objectives whose value a measured trial lacks and cannot get from training.

    Such a trial can be on no Pareto front.
    """
    untrained = [o for o in study_objectives if not OBJECTIVES[o.name].trained]
    return [o.label for o in untrained if OBJECTIVES[o.name].value(trial, 0) is None]
