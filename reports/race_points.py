"""The scores of a race: what its trainings reached, and what a long training of the other models is predicted to."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

from nas.study.horizon import LAPTOP
from nas.study.pareto import front
from nas.study.records import StudyRecord, TrialState
from reports.figure_data import BASELINE

CANDIDATE = "candidate"


def race_points(study: StudyRecord) -> list[dict[str, Any]]:
    """Return throughput and long score of every complete model; [] without a race.

    The score is that of the newest race's length: the mean over the seeds of a model that the race trained, else the
    prediction, with the study's offset, and one standard deviation to both sides.

    Args:
        study: Records of the study, with the timings to show.
    """
    race = study.info.race
    if race is None:
        return []
    timed = [t for t in study.trials if t.state is TrialState.COMPLETE and t.measurement is not None and t.params]
    predicted = {t.number: LAPTOP.predict(t.final_score, t.params or 1) for t in timed}
    results = study.race_results(race.steps, race.images)
    trained = {number: fmean(each.score for each in of) for number, of in results.items() if number in predicted}
    offset, variance = LAPTOP.offset([score - predicted[number] for number, score in trained.items()])
    sd = math.sqrt(LAPTOP.network_sd**2 + variance)
    rows: list[dict[str, Any]] = []
    for trial in timed:
        score, known = trained.get(trial.number, predicted[trial.number] + offset), trial.number in trained
        rows.append({
            "number": trial.number, "name": trial.name, "kind": BASELINE if trial.baseline else CANDIDATE,
            "trained": known, "ratio": trial.measurement.ratio if trial.measurement else math.nan, "score": score,
            "low": score if known else score - sd, "high": score if known else score + sd,
        })  # fmt: skip
    best = front([(row["score"], math.log2(row["ratio"])) for row in rows])
    return [row | {"on_front": i in best} for i, row in enumerate(rows)]
