"""Retrainings and remeasurements of a study, longer and with several seeds, for its report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas.analysis.evidence import StudyEvidence, gather_evidence
from nas.analysis.retraining import retraining_json
from nas.storage.store import Store
from nas.study.records import Measurement, StudyRecord, TrialRecord
from nas.study.timing_doubts import drawn_ends


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


def _drawn_ratio(measured: Measurement | None) -> dict[str, float | None]:
    """Return a ratio and the ends of its bar, see `drawn_ends`; None where nothing was measured."""
    names = ("ratio", "ratio_low", "ratio_high")
    if measured is None:
        return dict.fromkeys(names)
    return dict(zip(names, (measured.ratio, *drawn_ends(measured)), strict=True))
