"""The benchmark of timing calls its own functions in other processes, also when it runs as a command."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from typing import Any

import pytest


def test_a_command_sends_functions_that_other_processes_can_import(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # of the device's lock
    sent: list[Callable[..., Any]] = []

    class Server:
        def run(self, function: Callable[..., Any], *arguments: Any, limit_s: float) -> dict[str, Any]:
            sent.append(function)
            return {}

    command = runpy.run_module("experiments.benchmarks.timing", run_name="a_command")
    command["drift"].__globals__["_fork_server"] = Server
    command["drift"](0, None)
    assert [function.__module__ for function in sent] == ["experiments.benchmarks.timing"]
