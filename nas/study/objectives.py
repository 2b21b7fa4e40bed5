"""What a search can optimise, by name: how it is called, and how it is read off a trial. Pure.

A new objective is one more entry here, and a search takes it in ``--objectives``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from nas.study.records import Measurement, Objective, TrialRecord


class ObjectiveSpec(NamedTuple):
    """An objective, and its value for a trial at a rung; None where the trial has none (yet).

    trained: whether it takes training to know it. What does not is asked for right after measuring.
    """

    objective: Objective
    value: Callable[[TrialRecord, int], float | None]
    trained: bool = False


def _score(trial: TrialRecord, rung: int) -> float | None:
    return trial.rungs[rung].score if len(trial.rungs) > rung else None


def _measured(read: Callable[[Measurement], float | None]) -> Callable[[TrialRecord, int], float | None]:
    """Known before any training, so that it counts in full at every rung."""
    return lambda trial, rung: read(trial.measurement) if trial.measurement is not None else None


# References are where hypervolume begins to count: what is beyond is worth nothing to anybody.
OBJECTIVES: dict[str, ObjectiveSpec] = {
    "score": ObjectiveSpec(
        Objective("score", "explained variance of the teachers' features", "", 0.0), _score, trained=True
    ),
    "throughput": ObjectiveSpec(
        Objective("throughput", "throughput relative to the reference backbone", "x", 0.125, log=True),
        _measured(lambda m: m.ratio),
    ),
    "latency": ObjectiveSpec(
        Objective("latency", "latency of one image", "ms", 1000.0, log=True, minimize=True),
        _measured(lambda m: m.latency_ms),
    ),
    "memory": ObjectiveSpec(
        Objective("memory", "peak memory", "MiB", 80 * 1024.0, log=True, minimize=True),
        _measured(lambda m: m.peak_memory_mib),
    ),
    "params": ObjectiveSpec(
        Objective("params", "parameters", "", 1e9, log=True, minimize=True), lambda trial, rung: trial.params
    ),
    "macs": ObjectiveSpec(
        Objective("macs", "multiply-accumulates of one image", "", 1e12, log=True, minimize=True),
        lambda trial, rung: trial.macs,
    ),
}
SCORE_LABELS = {  # by DistillConfig.score
    "spatial": "explained variance of the teachers' spatial features",
    "both": "explained variance of the teachers' features",
}


def check_plane(sought: Sequence[Objective], command: str) -> None:
    """Raises ValueError where a study's front is not one of score and throughput, which `command` works with."""
    names = [objective.name for objective in sought]
    if sorted(names) != ["score", "throughput"]:
        raise ValueError(f"{command}: the study's objectives are {', '.join(names)}; it takes score and throughput")


def objectives(names: tuple[str, ...], score: str) -> tuple[Objective, ...]:
    """The objectives of a search, in the order of `names`; `score` says what score is."""
    found = [OBJECTIVES[name].objective for name in names]
    return tuple(replace(o, label=SCORE_LABELS[score]) if o.name == "score" else o for o in found)


def unknown_before_training(trial: TrialRecord, sought: Sequence[Objective]) -> list[str]:
    """Labels of the objectives that a measured trial has no value of, and will have none of: it can be on no front."""
    known_now = [o for o in sought if not OBJECTIVES[o.name].trained]
    return [o.label for o in known_now if OBJECTIVES[o.name].value(trial, 0) is None]
