"""What the processes of a training on a cluster get from the command."""

from __future__ import annotations

from dataclasses import fields

import pytest

from nas.backend.ray_train import _Rank, library_variables


def test_the_variables_of_logging_libraries_go_to_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "vlm")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not theirs")
    sent = library_variables()
    assert (sent["WANDB_PROJECT"], sent["MLFLOW_TRACKING_URI"]) == ("vlm", "http://127.0.0.1:5000")
    assert all(name.startswith(("WANDB_", "MLFLOW_")) for name in sent)


def test_a_key_is_not_in_what_ray_may_log() -> None:
    given: dict[str, object] = {field.name: f"value of {field.name}" for field in fields(_Rank)}
    given["environment"] = {"WANDB_API_KEY": "k3y"}
    shown = str({"rank": _Rank(**given)})  # type: ignore[arg-type]
    assert "value of targets" in shown
    assert "k3y" not in shown
