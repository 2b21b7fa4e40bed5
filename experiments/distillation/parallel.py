"""Train what an experiment's file of rows lacks, several at a time; each row is saved as soon as it is there."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from nas.files import atomic_write
from nas.numbers import clock

Row = dict[str, Any]


def load_rows(path: Path) -> list[Row]:
    """Return the saved rows; none without a file."""
    if not path.exists():
        return []
    content = path.read_bytes()
    rows: list[Row] = json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
    return rows


def save_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows, one a line; compressed if the file's name ends in .gz."""
    content = ("[\n" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "\n]\n").encode()
    atomic_write(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def training_words(row: Row) -> str:
    """Return a training's name and scores."""
    kind, arch = row.get("recipe", row.get("source")), row.get("arch") or row["arch_id"]
    return f"{kind} {arch} seed {row['seed']} {row['scores']}"


def train_missing(
    train: Callable[..., Row],
    jobs: Sequence[tuple[Any, ...]],
    rows: list[Row],
    path: Path,
    workers: int,
    words: Callable[[Row], str] = training_words,
) -> None:
    """Train jobs in processes, and show each with the time left.

    Args:
        train: Trains one job and returns its row.
        jobs: Arguments of `train`.
        rows: Rows of the file, to which those of the jobs are added.
        path: The file.
        workers: Jobs at a time.
        words: Says what a row is.
    """
    began, pool = time.monotonic(), ProcessPoolExecutor(workers)
    try:
        for ended, training in enumerate(as_completed([pool.submit(train, *job) for job in jobs]), start=1):
            rows.append(row := training.result())
            save_rows(path, rows)
            left = clock((time.monotonic() - began) / ended * (len(jobs) - ended))
            print(f"{ended}/{len(jobs)} {words(row)} ETA {left}", flush=True)
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C or an error, jobs that have not begun never do
