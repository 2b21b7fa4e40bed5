"""Where the values of a training's steps and evaluations are shown: TensorBoard, Weights & Biases, MLflow.

Weights & Biases and MLflow take their settings from their own environment variables (WANDB_PROJECT, WANDB_MODE,
MLFLOW_TRACKING_URI, ...). A log that fails is left out from then on: no training ends with its logging service.
"""

from __future__ import annotations

import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from nas.cli import one_line
from nas.files import atomic_write
from nas.study.training_files import EVENTS, LOG_ID

MLFLOW_FILE = "mlflow.db"  # in the folder of a training
PROJECT = "backbone-nas"  # unless the environment names another one
_MAX_REASON_CHARACTERS = 300
_REFUSED_BY_MLFLOW = re.compile(r"[^/\w.\- ]")  # in a name, as the @ of a teacher's size
_LOG = logging.getLogger(__name__)


class EventLog(Protocol):
    """Takes values by name, step by step."""

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Log the values of a step."""

    def close(self) -> None:
        """Write what is not written yet."""


class TensorBoard:
    """Event files in the folder of a training.

    Args:
        folder: Folder of the training.
        step: Step at which the training begins or resumes: TensorBoard does not show what came after it.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder / EVENTS), purge_step=step + 1)

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Log the values of a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Write what is not written yet."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, which a resumed training continues.

    Args:
        folder: Folder of the training.
        step: Step at which the training begins or resumes.
    """

    def __init__(self, folder: Path, step: int) -> None:
        import wandb

        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self._run: Any = wandb.init(
            project=project, name=folder.name, id=_identity(folder), dir=str(folder), resume="allow"
        )

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Log the values of a step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Write what is not written yet."""
        self._run.finish()


class MLflow:
    """A run of MLflow, which a resumed training continues; in RUN/mlflow.db unless MLFLOW_TRACKING_URI says otherwise.

    Args:
        folder: Folder of the training.
        step: Step at which the training begins or resumes.
    """

    def __init__(self, folder: Path, step: int) -> None:
        import mlflow

        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri(f"sqlite:///{folder.resolve() / MLFLOW_FILE}")
        self._client: Any = mlflow.MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        identity = _identity(folder)
        earlier = self._client.search_runs([number], f"tags.`backbone-nas.training` = '{identity}'")
        tag = {"backbone-nas.training": identity}
        run = earlier[0] if earlier else self._client.create_run(number, run_name=folder.name, tags=tag)
        self._run_id: str = run.info.run_id

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Log the values of a step."""
        from mlflow.entities import Metric

        now_ms = int(1e3 * time.time())
        named = {_REFUSED_BY_MLFLOW.sub("_", name): value for name, value in values.items()}
        self._client.log_batch(self._run_id, [Metric(name, value, now_ms, step) for name, value in named.items()])

    def close(self) -> None:
        """Write what is not written yet."""
        self._client.set_terminated(self._run_id)


def _identity(folder: Path) -> str:
    """Return the name of a training for logging services. It is kept in the folder, which the user may move."""
    path = folder / LOG_ID
    known = path.read_text() if path.is_file() else ""
    if not re.fullmatch(r"[0-9a-f]{32}", known):
        known = uuid.uuid4().hex
        atomic_write(path, known)
    return known


EVENT_LOGS: dict[str, Callable[[Path, int], EventLog]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


class _Dispensable:
    """A log that is left out, after one warning, from its first error on.

    Args:
        name: Key of EVENT_LOGS.
        folder: Folder of the training.
        step: Step at which the training begins or resumes.
    """

    def __init__(self, name: str, folder: Path, step: int) -> None:
        self._name = name
        self._log: EventLog | None = None
        with self._leaving_out_on_error():
            self._log = EVENT_LOGS[name](folder, step)

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Log the values of a step."""
        with self._leaving_out_on_error():
            if self._log is not None:
                self._log.add(values, step)

    def close(self) -> None:
        """Write what is not written yet."""
        with self._leaving_out_on_error():
            if self._log is not None:
                self._log.close()

    @contextmanager
    def _leaving_out_on_error(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # those of the libraries have no common base
            self._log = None
            reason = f"{type(error).__name__}: {one_line(error)}"[:_MAX_REASON_CHARACTERS]
            _LOG.warning("--log %s: %s; it is left out from now on", self._name, reason)


def open_event_logs(names: Sequence[str], folder: Path, step: int) -> list[EventLog]:
    """Open the logs of a training.

    Args:
        names: Keys of EVENT_LOGS.
        folder: Folder of the training.
        step: Step at which it begins or resumes.
    """
    return [_Dispensable(name, folder, step) for name in names]
