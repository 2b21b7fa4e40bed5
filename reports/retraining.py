"""Results of retraining a study's candidates, longer and with several seeds, for its report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.analysis.retraining import retraining_json, summarize_retraining
from nas.storage.location import holds_study
from nas.storage.store import Store
from nas.study.records import Measurement, StudyRecord
from nas.study.timing_doubts import drawn_ends


def read_retraining(run_dir: Path, study: StudyRecord) -> dict[str, Any] | None:
    """Read the results as ``backbone-nas retrain --json`` prints them; None where nothing was retrained.

    Raises:
        StoreError: the study cannot be read.
    """
    if not holds_study(run_dir):
        return None
    with Store.open(run_dir, read_only=True) as store:
        summary = summarize_retraining(study, store.retrainings(), store.remeasurements())
    return None if summary is None else retraining_json(study, summary)


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
