"""Train what an experiment's file of rows lacks, several at a time; each row is saved as soon as it is there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from nas.cli import clock
from nas.files import atomic_write

Row = dict[str, Any]


def load_rows(path: Path) -> list[Row]:
    """Return the saved rows; none without a file."""
    rows: list[Row] = json.loads(path.read_text()) if path.exists() else []
    return rows


def train_missing(
    train: Callable[..., Row], jobs: Sequence[tuple[Any, ...]], rows: list[Row], path: Path, workers: int
) -> None:
    """Train jobs in processes, and show each with the time left.

    Args:
        train: Trains one job and returns its row, which has `recipe`, `arch`, `seed` and `scores`.
        jobs: Arguments of `train`.
        rows: Rows of the file, to which those of the jobs are added.
        path: The file.
        workers: Jobs at a time.
    """
    began = time.monotonic()
    with ProcessPoolExecutor(workers) as pool:
        for ended, training in enumerate(as_completed([pool.submit(train, *job) for job in jobs]), start=1):
            rows.append(row := training.result())
            atomic_write(path, "[\n" + ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows) + "\n]\n")
            left = clock((time.monotonic() - began) / ended * (len(jobs) - ended))
            name = f"{row['recipe']} {row['arch']} seed {row['seed']}"
            print(f"{ended}/{len(jobs)} {name} {row['scores']} ETA {left}", flush=True)
