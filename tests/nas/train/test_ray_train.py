"""Train in the processes of a real Ray cluster on the loopback interface, of which a node dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nas.cli import INTERRUPTED
from nas.storage.store import read_study
from nas.study.records import TrialState
from nas.study.training_files import STEP, read_history
from tests.nas.backend.ray_nodes import RayNodes, environment
from tests.nas.train.test_command import step_of, words
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.slow


def start(folder: Path, arguments: list[str]) -> subprocess.Popen[str]:
    variables = environment(BACKBONE_NAS_CHECKPOINT_S="0", TMPDIR=os.environ.get("TMPDIR", "/tmp"))
    return subprocess.Popen(
        [sys.executable, "-m", "nas.train", *arguments], stderr=subprocess.PIPE, text=True, env=variables, cwd=folder
    )


def at_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    until(lambda: step_of(run) >= step or process.poll() is not None)
    assert process.poll() is None, process.communicate()[1]


def test_a_training_survives_ctrl_c_and_the_loss_of_a_node(tmp_path: Path) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    with RayNodes() as nodes:
        lost = nodes.add()
        process = start(tmp_path, words(run, cache, "--address", nodes.address, "--workers", "2"))
        at_step(run, 10, process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == INTERRUPTED, errors
        assert read_study(run).trials[0].state is TrialState.RUNNING

        again = ["--resume", str(run), "--cache", str(cache), "--address", nodes.address]
        process = start(tmp_path, again)
        at_step(run, 20, process)
        nodes.kill(lost)
        nodes.add()
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, errors
    assert read_history(run)[STEP] == [10, 20, 30, 40]
    (trial,) = read_study(run).trials
    assert [(rung.rung, rung.steps) for rung in trial.rungs] == [(0, 20), (1, 40)]
    assert trial.state is TrialState.COMPLETE


def test_too_many_processes_are_refused(tmp_path: Path) -> None:
    with RayNodes() as nodes:
        process = start(
            tmp_path, words(tmp_path / "run", tmp_path / "cache", "--address", nodes.address, "--workers", "2")
        )
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    assert "--workers: 2: the Ray cluster has 1 CPUs" in errors
