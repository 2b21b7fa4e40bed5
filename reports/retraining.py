"""Retrainings and remeasurements of a study, longer and with several seeds, for its report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.analysis.evidence import StudyEvidence, gather_evidence
from nas.analysis.retraining import retraining_json
from nas.storage.location import holds_study
from nas.storage.store import Store, read_study
from nas.study.records import Measurement, StudyRecord
from nas.study.timing_doubts import drawn_ends


def read_evidence(run_dir: Path, study: StudyRecord) -> StudyEvidence:
    """Return the evidence of a study, with the retrainings and remeasurements that its folder holds.

    Raises:
        StoreError: the study cannot be read.
    """
    if not holds_study(run_dir):
        return gather_evidence(study)
    with Store.open(run_dir, read_only=True) as store:
        return gather_evidence(study, store.retrainings(), store.remeasurements())


def read_trusted_study(run_dir: Path) -> StudyRecord:
    """Return the study in a folder with each trial's most trusted timing.

    Raises:
        StoreError: the study cannot be read.
    """
    return read_evidence(run_dir, read_study(run_dir)).study


def retraining_results(evidence: StudyEvidence) -> dict[str, Any] | None:
    """Return the results as ``backbone-nas retrain --json`` prints them; None where nothing was retrained."""
    return None if evidence.retraining is None else retraining_json(evidence.record, evidence.retraining)


def retraining_points(retraining: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return each candidate's score in the study, the mean of its longer trainings, and its ratio measured then."""
    if retraining is None:
        return []
    return [
        {
            "number": candidate["trial"],
            "name": candidate["name"],
            "kind": "baseline" if candidate["change"] == "baseline" else "retrained",
            "short": candidate["score_of_study"],
            "long": candidate["score"],
            "low": candidate["score"] - (candidate["half_width"] or 0.0),
            "high": candidate["score"] + (candidate["half_width"] or 0.0),
            **_drawn_ratio(candidate["measurement"]),
        }
        for candidate in retraining["candidates"]
        if candidate["score"] is not None and candidate["score_of_study"] is not None
    ]


def _drawn_ratio(measured: Mapping[str, Any] | None) -> dict[str, float | None]:
    """Return a ratio and the ends of its bar, see `drawn_ends`; None where nothing was measured."""
    names = ("ratio", "ratio_low", "ratio_high")
    if measured is None:
        return dict.fromkeys(names)
    m = Measurement.from_dict(dict(measured))
    return dict(zip(names, (m.ratio, *drawn_ends(m)), strict=True))
