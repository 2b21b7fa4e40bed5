"""Keep the long trainings of a race's target: the next search against it trains candidates alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from nas.files import atomic_write
from nas.study.config import SearchConfig
from nas.study.records import RungResult, TrialRecord, TrialState

FOLDER = "races"  # in the folder of the cache


def training_file(root: Path, config: SearchConfig, arch_id: str, fingerprint: str, origin: str) -> Path:
    """Return the file of a training, named after all that its numbers depend on.

    Args:
        root: Folder of the cache.
        config: Settings of the training, with its seed.
        arch_id: Of the architecture.
        fingerprint: Of images and teachers.
        origin: The device's kind and the program's code.
    """
    plain = [arch_id, fingerprint, config.seed, config.to_dict()["distill"], origin]
    return root / FOLDER / f"{hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]}.json"


def read(path: Path, record: TrialRecord) -> TrialRecord | None:
    """Return a record with the results in a file; None without a readable one."""
    try:
        rungs = tuple(RungResult.from_dict(rung) for rung in json.loads(path.read_text()))
    except (OSError, ValueError):
        return None
    return replace(record, state=TrialState.COMPLETE, rungs=rungs) if rungs else None


def write(path: Path, record: TrialRecord) -> None:
    """Write the results of a finished training."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps([rung.to_dict() for rung in record.rungs]))
