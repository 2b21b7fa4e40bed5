"""The files of `backbone-nas train` in its run folder, and how to read them.

The run folder is also that of a study of one model.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

PLAN, TABLE, EVENTS = "training.json", "history.csv", "tensorboard"
START = "start.safetensors"  # weights that the training begins with; "start.heads.safetensors" has their heads
LOG_ID = "log_id"  # name of the training for Weights & Biases and MLflow
STEP, RATE, NORM = "step", "learning_rate", "gradient_norm"  # columns of the table
SPEED, WAITING = "images_per_second", "waiting_share"  # the latter of the time, for images and targets
LOSS = "loss/"  # begins the columns of losses, which end in "teacher/head"


def is_training(run_dir: Path) -> bool:
    """Return whether a run folder is that of a training, and not of a search."""
    return (run_dir / PLAN).is_file()


def read_history(run_dir: Path) -> dict[str, list[float]]:
    """Return the columns of a training's table; empty where there is none yet, or it cannot be read.

    Args:
        run_dir: Folder of the training.
    """
    try:
        with (run_dir / TABLE).open(newline="") as file:
            rows = list(csv.DictReader(file))
        return {name: [float(row[name] or math.nan) for row in rows] for name in (rows[0] if rows else ())}
    except (OSError, ValueError, TypeError, KeyError, csv.Error):
        return {}
