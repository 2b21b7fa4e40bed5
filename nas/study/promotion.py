"""Whether a trial that has reached a rung trains on: halving, unless it would add much to the front. Pure.

`nas.study.halving` has the rules for points and curves; here they are applied to a study, in their order.
"""

from __future__ import annotations

from nas.numbers import plural
from nas.study.config import SearchConfig
from nas.study.halving import front_gain, score_curve, should_continue
from nas.study.objectives import value_or_prediction
from nas.study.pareto import coordinates, reference_point
from nas.study.records import StudyInfo, TrialRecord
from nas.study.trial_table import TrialTable


def reason_to_stop(
    record: TrialRecord, trials: TrialTable, info: StudyInfo, config: SearchConfig, just_measured: bool
) -> str | None:
    """Return why a trial stops at the rung that it has reached; None if it continues.

    Baselines always continue, and so does a trial at a rung that it has passed in an earlier run. A trial that is
    measured late passes one rung twice: by its predicted throughput, and by the measured one.

    Args:
        record: The trial, with the result of the rung.
        trials: The study's trials; its own record there is the one before the rung.
        info: Objectives and rungs of the study.
        config: Settings of the search.
        just_measured: Whether the trial has its measurement since this record.
    """
    again = len(record.rungs) <= len(trials[record.number].rungs)
    timed = any(objective.name == "throughput" for objective in info.objectives)
    if record.baseline or (again and not (timed and just_measured)):
        return None
    rung = len(record.rungs) - 1
    point, eta = coordinates(record, info.objectives, rung), config.reduction_factor
    steps = f"after {plural(info.rung_steps[rung], 'step')}"
    if missing := [o.name for o in info.objectives if value_or_prediction(record, o.name, rung) is None]:
        return f"has no value of {', '.join(missing)} {steps}"
    others = trials.points(rung, exclude=record.number)
    if point is not None and (should_continue(point, others, eta) or _gains_much(record, trials, info, config)):
        return None
    return f"not among the best 1/{eta} {steps}"


def _gains_much(record: TrialRecord, trials: TrialTable, info: StudyInfo, config: SearchConfig) -> bool:
    """Return whether a trial that halving would stop continues, because it would add much to the front.

    Halving compares with all trials that reached the rung, stopped ones included. Those that a sampler proposes where
    the front has no model would stop each other.
    """
    least = config.front_gain
    if not least or len(info.objectives) == 1:  # by score alone, the best third is the front's
        return False
    curves = {t.number: score_curve(t, info.objectives) for t in (*trials.values(), record)}
    own = curves.pop(record.number)
    if own is None:
        return False
    others = [curve for curve in curves.values() if curve is not None]
    objectives = sorted(info.objectives, key=lambda objective: objective.name != "score")
    return front_gain(own, others, len(info.rung_steps), reference_point(objectives)) >= least
