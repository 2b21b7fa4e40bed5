"""Results of retraining a study's models, longer and with several seeds, for its report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.finals.standing import standings
from nas.finals.table import to_json
from nas.records import Study
from nas.storage.place import holds_study
from nas.store import Store


def read_retraining(run_dir: Path, study: Study) -> dict[str, Any] | None:
    """Read the results as ``nas.finals --json`` prints them; None where nothing was retrained.

    Raises:
        StoreError: the study cannot be read.
    """
    if not holds_study(run_dir):
        return None
    with Store.open(run_dir) as store:
        summary = standings(study, store.finals(), store.reranks())
    return None if summary is None else to_json(study, summary)


def retraining_points(retraining: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return each model's score in the study, and the mean of its longer trainings with its 95 % interval."""
    if retraining is None:
        return []
    return [
        {
            "number": net["trial"],
            "name": net["net"],
            "kind": "baseline" if net["fate"] == "baseline" else "retrained",
            "short": net["quality_of_study"],
            "long": net["quality"],
            "low": net["quality"] - net["half_width"],
            "high": net["quality"] + net["half_width"],
        }
        for net in retraining["nets"]
        if net["quality"] is not None and net["quality_of_study"] is not None
    ]
