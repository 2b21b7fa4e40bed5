"""What a training on a Ray cluster tells of a failure, and of processors that the cluster does not have."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import WorkerGroupError

from nas.backend import ray_train
from nas.backend.pool import TrainingJob
from nas.distill.trainer import TrainingError
from nas.study.config import DistillConfig
from tests.nas.study.builders import record, search_config


def test_the_reason_of_a_failure_is_that_of_a_process() -> None:
    cause = UserExceptionWithTraceback(TrainingError("the loss is\nnot finite"), "Traceback: many lines")
    assert ray_train._reason(WorkerGroupError("[Rank 1 Error Snippet]", {1: cause})) == (
        "TrainingError: the loss is not finite"
    )
    assert ray_train._reason(OSError("no space left")) == "OSError: no space left"


@pytest.mark.parametrize(
    ("started", "told"),
    [
        (False, "the training needs 2 CPUs, and the Ray cluster has 1 free ones"),
        (True, None),  # the free ones are those that it has not taken
    ],
)
def test_processors_that_a_cluster_lacks_are_named(
    started: bool, told: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr("ray.available_resources", lambda: {"CPU": 1.0})
    job = TrainingJob(record(0, (), 1.0), search_config(distill=DistillConfig(ranks=2)), tmp_path)
    assert ray_train._lacking(job, started) == told
    monkeypatch.setattr("ray.cluster_resources", dict)
    assert ray_train._lacking(job, True) == "the training needs 2 CPUs, and the Ray cluster has 0"
