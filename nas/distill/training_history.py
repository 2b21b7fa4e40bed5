"""The history of a training: a table of its steps, and the same values in TensorBoard or other logs.

`history.csv` has a line every EVERY steps, with means over the steps since the line before. The logs have these values
too, and those of every evaluation. What a resumed training trains again is removed from the table.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from nas.distill.event_logs import open_event_logs
from nas.distill.trainer import GRAD_NORM, Distiller
from nas.files import atomic_write
from nas.study.records import RungResult
from nas.study.training_files import LOSS, NORM, RATE, SPEED, STEP, TABLE, WAITING

EVERY = 10  # steps between two lines


class History:
    """Writes the history of a training that begins, or resumes, at the step of its distiller.

    Args:
        folder: Folder of the training.
        distiller: The training.
        logs: Names of `EVENT_LOGS`.
    """

    def __init__(self, folder: Path, distiller: Distiller, logs: Sequence[str] = ("tensorboard",)) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        losses = map(_column, distiller.loss_names)
        self._columns = (STEP, RATE, *losses, *((NORM,) if distiller.config.max_grad_norm else ()), SPEED, WAITING)
        table = folder / TABLE
        kept = _lines_until(distiller.step, table, self._columns)
        atomic_write(table, "\n".join([",".join(self._columns), *kept, ""]))
        # The next line has the means since the last one, also of steps before a break: the training has kept them.
        self._step = int(kept[-1].partition(",")[0]) if kept else distiller.step - len(distiller.losses)
        self._file = table.open("a", newline="")
        self._rows = csv.DictWriter(self._file, self._columns)
        self._logs = open_event_logs(logs, folder, distiller.step)
        self._restart_clock(distiller)

    def add_steps(self, distiller: Distiller) -> None:
        """Write a line for every EVERY steps since the last one; lines of one call have the same speed."""
        ends = range(self._step + EVERY, distiller.step + 1, EVERY)
        if not ends:
            return
        seconds = time.perf_counter() - self._began
        speed = {
            SPEED: (distiller.images - self._images) / seconds,
            WAITING: (distiller.waiting_s - self._waited_s) / seconds,
        }
        for end in ends:
            losses = {_column(name): mean for name, mean in distiller.means(self._step, end).items()}
            values = {RATE: distiller.config.learning_rate_at(end - 1), **losses, **speed}
            self._rows.writerow({STEP: end, **{name: f"{value:.6g}" for name, value in values.items()}})
            self._add_events(values, end)
            self._step = end
        self._file.flush()
        self._restart_clock(distiller)

    def add_result(self, result: RungResult, distiller: Distiller) -> None:
        """Write the values of an evaluation, whose time is no part of the steps'."""
        explained = {
            f"explained_variance/{teacher}/{head}": value
            for teacher, heads in result.teachers.items()
            for head, value in heads.items()
        }
        probes = {f"probes/{name}": value for name, value in result.metrics.items()}
        fit = {} if result.train_score is None else {"train_score": result.train_score}
        self._add_events({"score": result.score, **fit, **explained, **probes}, result.steps)
        self._restart_clock(distiller)

    def close(self) -> None:
        """Write what is not written yet."""
        self._file.close()
        for log in self._logs:
            log.close()

    def _restart_clock(self, distiller: Distiller) -> None:
        self._began, self._images, self._waited_s = time.perf_counter(), distiller.images, distiller.waiting_s

    def _add_events(self, values: Mapping[str, float], step: int) -> None:
        for log in self._logs:
            log.add(values, step)


def _column(name: str) -> str:
    """Return the column of "teacher/head", or of the gradient's norm."""
    return NORM if name == GRAD_NORM else f"{LOSS}{name}"


def _lines_until(step: int, table: Path, columns: tuple[str, ...]) -> list[str]:
    """Return the lines of a table up to a step, without the header; none where the table has other columns.

    A line that a power cut has left unfinished is left out, with all after it.
    """
    lines = table.read_text(errors="replace").splitlines() if table.exists() else []
    header = ",".join(columns)
    if lines[:1] != [header]:
        return []
    commas = header.count(",")
    return list(takewhile(lambda line: line.count(",") == commas and int(line.partition(",")[0]) <= step, lines[1:]))
