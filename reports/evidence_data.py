"""Retrainings, remeasurements and races of a study, longer and with several seeds, for its report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from nas.analysis.evidence import StudyEvidence, gather_evidence
from nas.analysis.retraining import retraining_json
from nas.storage.store import Store
from nas.study.horizon import LAPTOP
from nas.study.pareto import front
from nas.study.records import Measurement, StudyRecord, TrialRecord, TrialState
from nas.study.timing_doubts import drawn_ends
from reports.figure_data import BASELINE

CANDIDATE = "candidate"  # kind of a row of `race_points`


def read_evidence(run_dir: Path) -> StudyEvidence:
    """Return the evidence of the study in a folder.

    Raises:
        StoreError: the study cannot be read.
    """
    with Store.open(run_dir, read_only=True) as store:
        return gather_evidence(*store.read_all())


def retraining_results(evidence: StudyEvidence) -> dict[str, Any] | None:
    """Return the results as ``backbone-nas retrain --json`` prints them; None where nothing was retrained."""
    return None if evidence.retraining is None else retraining_json(evidence.record, evidence.retraining)


def retimed_trials(study: StudyRecord, retraining: Mapping[str, Any] | None) -> dict[int, TrialRecord]:
    """Return the retrained trials by number with the timings of the retraining, those that have one.

    Args:
        study: records of the study.
        retraining: results, as `retraining_results` returns them.
    """
    candidates = retraining["candidates"] if retraining else ()
    timings = {c["trial"]: Measurement.from_dict(dict(c["measurement"])) for c in candidates if c["measurement"]}
    return {t.number: replace(t, measurement=timings[t.number]) for t in study.trials if t.number in timings}


def retraining_points(study: StudyRecord, retraining: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return each candidate's score in the study, the mean of its longer trainings, and its ratio to draw.

    The ratio is that of the timing to show, None where there is none.

    Args:
        study: records of the study, with the timings to show.
        retraining: results, as `retraining_results` returns them.
    """
    if retraining is None:
        return []
    timings = {t.number: t.measurement for t in study.trials}
    return [
        {
            "number": candidate["trial"],
            "name": candidate["name"],
            "kind": "baseline" if candidate["change"] == "baseline" else "retrained",
            "short": candidate["score_of_study"],
            "long": candidate["score"],
            "low": candidate["score"] - (candidate["half_width"] or 0.0),
            "high": candidate["score"] + (candidate["half_width"] or 0.0),
            **_drawn_ratio(timings.get(candidate["trial"])),
        }
        for candidate in retraining["candidates"]
        if candidate["score"] is not None and candidate["score_of_study"] is not None
    ]


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
            "trained": known, "named": trial.number in (race.best, race.target), "score": score,
            "ratio": trial.measurement.ratio if trial.measurement else math.nan,
            "low": score if known else score - sd, "high": score if known else score + sd,
        })  # fmt: skip
    best = front([(row["score"], math.log2(row["ratio"])) for row in rows])
    return [row | {"on_front": i in best} for i, row in enumerate(rows)]


def _drawn_ratio(measured: Measurement | None) -> dict[str, float | None]:
    """Return a ratio and the ends of its bar, see `drawn_ends`; None where nothing was measured."""
    names = ("ratio", "ratio_low", "ratio_high")
    if measured is None:
        return dict.fromkeys(names)
    return dict(zip(names, (measured.ratio, *drawn_ends(measured)), strict=True))
