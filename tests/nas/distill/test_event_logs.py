"""The course of a training in Weights & Biases and MLflow, as far as they are installed; a resumed run continues."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from nas.distill.event_logs import EVENT_LOGS, MLFLOW_FILE, open_event_logs
from nas.study.training_files import LOG_ID
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


def test_a_run_of_a_service_is_that_of_the_folder_wherever_it_lies(
    tmp_path: Path, mlflow_server: list[tuple[str, tuple[Any, ...]]]
) -> None:
    def asked_for(folder: Path) -> str:
        mlflow_server.clear()
        open_event_logs(["mlflow"], folder, 0)
        return next(str(arguments[1]) for name, arguments in mlflow_server if name == "search_runs")

    old, moved = tmp_path / "old", tmp_path / "moved"
    old.mkdir()
    first = asked_for(old)
    assert asked_for(old) == first, "a resumed training continues the run"
    old.rename(moved)
    assert asked_for(moved) == first, "so does one whose folder was moved"
    old.mkdir()
    assert asked_for(old) != first, "a new training in a folder of the same name is another one"
    (old / LOG_ID).write_text("x' OR 'a' = 'a")
    assert "OR" not in asked_for(old), "a damaged id is replaced"


class Service:
    """A logging service whose calls fail from the one on that is named."""

    def __init__(self, fails_at: str) -> None:
        self.fails_at, self.added, self.closed = fails_at, [], 0

    def begin(self, folder: Path, step: int) -> Service:
        self._answer("begin")
        return self

    def add(self, values: Mapping[str, float], step: int) -> None:
        self.added.append(step)
        if step == 20:
            self._answer("add")

    def close(self) -> None:
        self.closed += 1
        self._answer("close")

    def _answer(self, call: str) -> None:
        if call == self.fails_at:
            raise ConnectionError("503 Service Unavailable")


@pytest.mark.parametrize(
    ("fails_at", "added", "closed"),
    [("begin", [], 0), ("add", [10, 20], 0), ("close", [10, 20, 30], 1), ("never", [10, 20, 30], 1)],
)
def test_an_outage_of_a_service_is_said_once_and_the_training_continues(
    fails_at: str, added: list[int], closed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    service = Service(fails_at)
    monkeypatch.setitem(EVENT_LOGS, "wandb", service.begin)
    other = Service("never")
    monkeypatch.setitem(EVENT_LOGS, "mlflow", other.begin)
    with caplog.at_level(logging.WARNING, "nas"):
        logs = open_event_logs(["wandb", "mlflow"], tmp_path, 0)
        for step in (10, 20, 30):
            for log in logs:
                log.add({"score": 0.5}, step)
        for log in logs:
            log.close()
    assert (service.added, service.closed) == (added, closed)
    assert (other.added, other.closed) == ([10, 20, 30], 1)
    said = (
        []
        if fails_at == "never"
        else ["--log wandb: ConnectionError: 503 Service Unavailable; it is left out from now on"]
    )
    assert [record.getMessage() for record in caplog.records] == said


@pytest.fixture
def mlflow_server(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...]]]:
    """Put a library in MLflow's place, and return the calls that would each be one of HTTP."""
    calls: list[tuple[str, tuple[Any, ...]]] = []

    class Client:
        def __getattr__(self, name: str) -> Any:
            def call(*arguments: Any, **options: Any) -> Any:
                calls.append((name, arguments))
                return SimpleNamespace(experiment_id="7", info=SimpleNamespace(run_id="mine"))

            return call

        def search_runs(self, *arguments: Any) -> list[Any]:
            calls.append(("search_runs", arguments))
            return []

    library, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    library.MlflowClient = Client  # type: ignore[attr-defined]
    entities.Metric = lambda key, value, timestamp, step: (key, value, step)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", library)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://nowhere.invalid")
    return calls


def test_names_of_metrics_are_such_that_mlflow_takes_them(
    tmp_path: Path, mlflow_server: list[tuple[str, tuple[Any, ...]]]
) -> None:
    (log,) = open_event_logs(["mlflow"], tmp_path, 0)
    mlflow_server.clear()
    log.add({"loss/samvit_huge_patch16.sa1b@1024/4/spatial": 0.5, "images_per_second": 9.0}, 10)
    ((_, (_, metrics)),) = mlflow_server
    assert metrics == [("loss/samvit_huge_patch16.sa1b_1024/4/spatial", 0.5, 10), ("images_per_second", 9.0, 10)]


def test_all_values_of_a_step_are_one_call_of_mlflow(
    tmp_path: Path, mlflow_server: list[tuple[str, tuple[Any, ...]]]
) -> None:
    (log,) = open_event_logs(["mlflow"], tmp_path, 0)
    mlflow_server.clear()
    log.add({"loss/hed/spatial": 0.5, "score": 0.25, "speed": 900.0}, 10)
    assert mlflow_server == [
        ("log_batch", ("mine", [("loss/hed/spatial", 0.5, 10), ("score", 0.25, 10), ("speed", 900.0, 10)]))
    ]
