"""What `nas.finals` found about a study, for its page: the finalists trained again, longer and with other seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.finals.standing import standings
from nas.finals.table import to_json
from nas.records import Study
from nas.storage.place import holds_study
from nas.store import Store


def read_finals(run_dir: Path, study: Study) -> dict[str, Any] | None:
    """As ``nas.finals --json`` says it; None where nothing was trained again. StoreError where it cannot be read."""
    if not holds_study(run_dir):
        return None
    store = Store.open(run_dir)
    found = standings(study, store.finals(), store.reranks())
    return None if found is None else to_json(study, found)


def points(finals: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Quality in the study against the mean of the longer trainings with its 95 % interval, by net."""
    if finals is None:
        return []
    return [
        {
            "number": net["trial"],
            "net": net["net"],
            "kind": "baseline" if net["fate"] == "baseline" else "finalist",
            "short": net["quality_of_study"],
            "long": net["quality"],
            "low": net["quality"] - net["half_width"],
            "high": net["quality"] + net["half_width"],
        }
        for net in finals["nets"]
        if net["quality"] is not None and net["quality_of_study"] is not None
    ]
