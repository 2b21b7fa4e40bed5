"""The course of a training in Weights & Biases and MLflow, as far as they are installed; a resumed run continues."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.distill.event_logs import EVENT_LOGS, MLFLOW_FILE, open_event_logs
from nas.train.training_settings import LOG_LIBRARIES


def test_the_command_knows_every_log() -> None:
    assert set(LOG_LIBRARIES) == set(EVENT_LOGS)


def log_twice(name: str, folder: Path) -> None:
    """Log as a training that is interrupted after step 20 and resumed at step 10."""
    folder.mkdir()
    for step, values in ((0, {10: 0.5, 20: 0.4}), (10, {20: 0.3, 30: 0.2})):
        (log,) = open_event_logs([name], folder, step)
        for at, value in values.items():
            log.add({"loss/hed/spatial": value, "score": 0.1}, at)
        log.close()


def test_mlflow_keeps_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    log_twice("mlflow", tmp_path / "mine")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mine' / MLFLOW_FILE}")
    (run,) = client.search_runs([client.get_experiment_by_name("backbone-nas").experiment_id])
    assert run.info.run_name == "mine"
    history = client.get_metric_history(run.info.run_id, "loss/hed/spatial")
    assert [(m.step, m.value) for m in history] == [(10, 0.5), (20, 0.4), (20, 0.3), (30, 0.2)]


def test_weights_and_biases_writes_offline_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="Weights & Biases is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    log_twice("wandb", tmp_path / "mine")
    runs = list((tmp_path / "mine" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert runs
    assert len({path.name for path in runs}) == 1, "the resumed training has the id of the first"
    assert all(path.stat().st_size > 500 for path in runs)
