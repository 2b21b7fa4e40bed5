"""Estimates of what further work on a study costs, from the time that the study itself took."""

from __future__ import annotations

import math

from nas.analysis import RETRAINED_NEAR_MISSES, RETRAINED_SEEDS, RETRAINED_TIMES_LONGER
from nas.numbers import plural
from nas.study.records import StudyInfo
from reports.formatting import duration
from reports.summary import StudySummary


def more_finished_models(info: StudyInfo, summary: StudySummary, missing: int) -> tuple[int, str]:
    """Return the evaluations that train `missing` more models to the last rung, and a sentence with their price.

    It assumes that as large a share of the candidates is trained to the last rung as before.
    """
    finished = len(summary.complete)
    evaluations = math.ceil(missing * max(summary.evaluated, 1) / max(finished, 1))
    steps = evaluations * summary.curve[-1].steps / summary.evaluated if summary.curve else 0.0
    models, time = plural(missing, "more finished model"), _time(info, summary, steps)
    if not finished:
        needed = plural(missing, "more finished model is", "more finished models are")
        return evaluations, f"{needed[:1].upper()}{needed[1:]} needed{time}."
    architectures = plural(evaluations, "more architecture")
    return evaluations, f"Evaluate about {architectures} to get {models}{time}."


def retraining_price(info: StudyInfo, summary: StudySummary, steps: int | None = None) -> str:
    """Say what ``backbone-nas retrain`` trains with the baselines, if any, and the time that the whole of it takes.

    Args:
        info: description of the study.
        summary: numbers of the study.
        steps: steps of each training; None for the command's default.
    """
    models, steps = len(summary.front), steps or RETRAINED_TIMES_LONGER * info.rung_steps[-1]
    trainings = RETRAINED_SEEDS * (models + RETRAINED_NEAR_MISSES + len(summary.baselines))
    front = f"the {plural(models, 'model')} of the front"
    near = f"up to {RETRAINED_NEAR_MISSES} candidates just behind it"
    trained = f"{front} and {near}"
    if summary.baselines:
        trained = f"{front}, {near} and {plural(len(summary.baselines), 'baseline')}"
    return (
        f"It trains {trained}, with {RETRAINED_SEEDS} seeds for {steps:,} steps"
        f"{_time(info, summary, steps * trainings, 'at most ')}."
    )


def _time(info: StudyInfo, summary: StudySummary, steps: float, bound: str = "") -> str:
    """Return ", about 4 min at this study's pace"; "" where that is unknown. Measuring and waiting are in the pace."""
    last = summary.curve[-1] if summary.curve else None
    trained = last.steps + len(summary.baselines) * info.rung_steps[-1] if last else 0
    if last is None or not last.seconds or not trained or not steps:
        return ""
    return f", {bound}about {duration(steps * last.seconds / trained)} at this study’s pace"
