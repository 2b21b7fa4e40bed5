"""The course of a training in Weights & Biases and MLflow; a resumed run continues."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nas.distill.event_logs import EVENT_LOGS, MLFLOW_FILE, open_event_logs
from nas.study.training_files import LOG_ID

Calls = list[tuple[str, tuple[Any, ...]]]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "true")  # MLflow reports its use otherwise


@pytest.fixture
def mlflow_calls(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Let MLflow write into a database of the tests, and return the calls of its client."""
    import mlflow

    calls: Calls = []
    for name in ("search_runs", "create_run", "log_batch", "set_terminated"):
        original = getattr(mlflow.MlflowClient, name)

        def spied(client: Any, *arguments: Any, name: str = name, original: Any = original, **options: Any) -> Any:
            calls.append((name, arguments))
            return original(client, *arguments, **options)

        monkeypatch.setattr(mlflow.MlflowClient, name, spied)
    uri = f"sqlite:///{tmp_path_factory.getbasetemp() / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    return calls


def log_twice(name: str, folder: Path) -> None:
    """Log as a training that is interrupted after step 20 and resumed at step 10."""
    folder.mkdir()
    for step, values in ((0, {10: 0.5, 20: 0.4}), (10, {20: 0.3, 30: 0.2})):
        (log,) = open_event_logs([name], folder, step)
        for at, value in values.items():
            log.add({"loss/hed/spatial": value, "score": 0.1}, at)
        log.close()


def test_mlflow_keeps_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    log_twice("mlflow", tmp_path / "mine")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mine' / MLFLOW_FILE}")
    (run,) = client.search_runs([client.get_experiment_by_name("backbone-nas").experiment_id])
    assert run.info.run_name == "mine"
    history = client.get_metric_history(run.info.run_id, "loss/hed/spatial")
    assert [(m.step, m.value) for m in history] == [(10, 0.5), (20, 0.4), (20, 0.3), (30, 0.2)]


def test_weights_and_biases_writes_offline_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    import wandb

    log_twice("wandb", tmp_path / "mine")
    wandb.teardown()  # as at the end of a process: the service writes what it has
    runs = list((tmp_path / "mine" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert runs
    assert len({path.name for path in runs}) == 1, "the resumed training has the id of the first"
    assert all(path.stat().st_size > 500 for path in runs)


def test_a_run_of_a_service_is_that_of_the_folder_wherever_it_lies(tmp_path: Path, mlflow_calls: Calls) -> None:
    def run_of(folder: Path) -> str:
        mlflow_calls.clear()
        (log,) = open_event_logs(["mlflow"], folder, 0)
        log.close()
        return next(str(arguments[0]) for call, arguments in mlflow_calls if call == "set_terminated")

    old, moved = tmp_path / "old", tmp_path / "moved"
    old.mkdir()
    first = run_of(old)
    assert run_of(old) == first, "a resumed training continues the run"
    old.rename(moved)
    assert run_of(moved) == first, "so does one whose folder was moved"
    old.mkdir()
    assert run_of(old) != first, "a new training in a folder of the same name is another one"
    (old / LOG_ID).write_text("x' OR 'a' = 'a")
    assert run_of(old) != first, "a damaged id is replaced"


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
    said = [record.getMessage() for record in caplog.records]
    assert ["--log wandb" in line and "503" in line for line in said] == [True] * (fails_at != "never")


def test_names_of_metrics_are_such_that_mlflow_takes_them(tmp_path: Path, mlflow_calls: Calls) -> None:
    import mlflow

    (log,) = open_event_logs(["mlflow"], tmp_path, 0)
    log.add({"loss/samvit_huge_patch16.sa1b@1024/4/spatial": 0.5}, 10)
    (run_id,) = {str(arguments[0]) for call, arguments in mlflow_calls if call == "log_batch"}
    assert mlflow.MlflowClient().get_run(run_id).data.metrics == {"loss/samvit_huge_patch16.sa1b_1024/4/spatial": 0.5}
