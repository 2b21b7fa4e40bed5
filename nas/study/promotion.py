"""Whether a trial that has reached a rung trains on: halving, unless it would add much to the front. Pure.

`nas.study.halving` has the rules for points and curves; here they are applied to a study, in their order.
"""

from __future__ import annotations

from nas.numbers import plural
from nas.study.config import SearchConfig
from nas.study.halving import ScoreCurve, front_chance, front_gain, score_curve, should_continue
from nas.study.objectives import value_or_prediction
from nas.study.pareto import coordinates, reference_point
from nas.study.records import StudyInfo, TrialRecord
from nas.study.trial_table import TrialTable


def reason_to_stop(
    record: TrialRecord, trials: TrialTable, info: StudyInfo, config: SearchConfig, just_measured: bool
) -> str | None:
    """Return why a trial stops at the rung that it has reached; None if it continues.

    Baselines always continue, and so does a trial at a rung that it has passed in an earlier run. A trial that is
    measured late passes its first rung twice: by its predicted throughput, and by the measured one.

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
    rung, least = len(record.rungs) - 1, config.last_rung_chance
    point, eta = coordinates(record, info.objectives, rung), config.reduction_factor
    steps = f"after {plural(info.rung_steps[rung], 'step')}"
    if missing := [o.name for o in info.objectives if value_or_prediction(record, o.name, rung) is None]:
        return f"has no value of {', '.join(missing)} {steps}"
    others = trials.points(rung, exclude=record.number)
    if point is None or not (should_continue(point, others, eta) or _gains_much(record, trials, info, config)):
        return f"not among the best 1/{eta} {steps}"
    if not least or rung != len(info.rung_steps) - 2:
        return None
    chance = _front_chance(record, trials, info, config)
    return f"{steps}, its chance to be on the front was {chance:.2f}, below {least:g}" if chance < least else None


def _gains_much(record: TrialRecord, trials: TrialTable, info: StudyInfo, config: SearchConfig) -> bool:
    """Return whether a trial that halving would stop continues, because it would add much to the front.

    Halving compares with all trials that reached the rung, stopped ones included. Those that a sampler proposes where
    the front has no model would stop each other.
    """
    least = config.front_gain
    if not least or len(info.objectives) == 1:  # by score alone, the best third is the front's
        return False
    own, others = _curves(record, trials, info)
    if own is None:
        return False
    objectives = sorted(info.objectives, key=lambda objective: objective.name != "score")
    return front_gain(own, others, len(info.rung_steps), reference_point(objectives)) >= least


def _front_chance(record: TrialRecord, trials: TrialTable, info: StudyInfo, config: SearchConfig) -> float:
    """Return a trial's chance to be on the front if it trains to the last rung."""
    own, others = _curves(record, trials, info)
    return 0.0 if own is None else front_chance(own, others, len(info.rung_steps), config.seed)


def _curves(record: TrialRecord, trials: TrialTable, info: StudyInfo) -> tuple[ScoreCurve | None, list[ScoreCurve]]:
    """Return the scores of a trial so far, and those of the others, as far as they have values."""
    curves = {t.number: score_curve(t, info.objectives) for t in (*trials.values(), record)}
    own = curves.pop(record.number)
    return own, [curve for curve in curves.values() if curve is not None]
