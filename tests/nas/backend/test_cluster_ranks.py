"""What the processes of a training on a cluster get from the command."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from nas.backend.cluster_ranks import ClusterRank, library_variables, train_on_cluster
from nas.backend.training_rank import TrainingFailed, TrainingJob
from nas.study.config import DistillConfig
from tests.nas.backend.breaking import WORDS, breaking
from tests.nas.backend.ray_nodes import ENVIRONMENT, RayNodes
from tests.nas.backend.real_targets import open_real_targets
from tests.nas.study.builders import record, search_config


def test_the_variables_of_logging_libraries_go_to_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "vlm")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not theirs")
    sent = library_variables()
    assert (sent["WANDB_PROJECT"], sent["MLFLOW_TRACKING_URI"]) == ("vlm", "http://127.0.0.1:5000")
    assert all(name.startswith(("WANDB_", "MLFLOW_")) for name in sent)


def test_a_key_is_not_in_what_ray_may_log() -> None:
    given: dict[str, object] = {field.name: f"value of {field.name}" for field in fields(ClusterRank)}
    given["environment"] = {"WANDB_API_KEY": "k3y"}
    shown = str({"rank": ClusterRank(**given)})  # type: ignore[arg-type]
    assert "value of folder" in shown
    assert "k3y" not in shown


@pytest.mark.machine
@pytest.mark.slow
@pytest.mark.ray
def test_an_error_of_one_rank_is_the_reason_and_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = search_config(
        train_images=64,
        val_images=32,
        teachers="hed",
        distill=DistillConfig(rung_steps=(2,), precision="fp32", ranks=2),
    )
    targets = open_real_targets(config, tmp_path / "cache").path
    job = TrainingJob(breaking(record(1, (), 1.0)), config, tmp_path / "job")
    job.folder.mkdir()
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    attempts = tmp_path / "attempts"
    with RayNodes(cpus=2, BREAKING_ATTEMPTS=str(attempts)) as nodes, pytest.raises(TrainingFailed, match=WORDS):
        for _ in train_on_cluster(job, targets, nodes.address, *[lambda _: None] * 3):
            pass
    assert attempts.read_text() == "x"
