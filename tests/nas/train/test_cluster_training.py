"""Train in the processes of a real Ray cluster on the loopback interface, of which a node dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nas.cli import BAD_INPUT, INTERRUPTED
from nas.storage.store import read_study
from nas.study.records import TrialState
from nas.study.training_files import EVENTS, STEP, read_history
from tests.nas.backend.ray_nodes import RayNodes, environment
from tests.nas.train.test_command import STEPS, step_of, words
from tests.waiting import PATIENCE_S, until

pytestmark = [pytest.mark.machine, pytest.mark.ray, pytest.mark.slow]


def start(folder: Path, arguments: list[str]) -> subprocess.Popen[str]:
    variables = environment(BACKBONE_NAS_CHECKPOINT_S="0", TMPDIR=os.environ.get("TMPDIR", "/tmp"))
    return subprocess.Popen(
        [sys.executable, "-m", "nas.train", *arguments], stderr=subprocess.PIPE, text=True, env=variables, cwd=folder,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where a shell runs the tests by "&"
    )  # fmt: skip


def after_step(run: Path, step: float, process: subprocess.Popen[str]) -> None:
    until(lambda: step_of(run) > step or process.poll() is not None)
    assert process.poll() is None, process.communicate()[1]


def beginnings(run: Path) -> int:
    """Return how many times the training has begun or continued: each time opens a file of events."""
    return len(list((run / EVENTS).iterdir()))


def test_a_training_survives_ctrl_c_and_the_loss_of_a_node(tmp_path: Path) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    arguments = [word if word != str(STEPS) else "200" for word in words(run, cache)]
    arguments[arguments.index("--eval-every") + 1] = "100"
    with RayNodes() as nodes:
        lost = nodes.add()
        process = start(tmp_path, [*arguments, "--address", nodes.address, "--workers", "2"])
        after_step(run, 0, process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == INTERRUPTED, errors
        again = ["--resume", str(run), "--address", nodes.address]
        assert " ".join(again) in errors
        assert "the training's state is saved" in errors
        assert read_study(run).trials[0].state is TrialState.RUNNING
        assert beginnings(run) == 1

        process = start(tmp_path, [*again, "--cache", str(cache)])
        after_step(run, step_of(run), process)
        nodes.kill(lost)
        nodes.add()
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, errors
    assert beginnings(run) == 3
    assert read_history(run)[STEP] == list(range(10, 201, 10))
    (trial,) = read_study(run).trials
    assert [(rung.rung, rung.steps) for rung in trial.rungs] == [(0, 100), (1, 200)]
    assert trial.state is TrialState.COMPLETE
    assert not list((run / "checkpoints").iterdir()), "of a finished training none is kept"


def test_a_training_that_breaks_down_is_not_tried_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with RayNodes(cpus=2) as nodes:
        breaking = ("--distill", "learning_rate=100", "--distill", "weight_decay=100")
        place = ("--address", nodes.address, "--workers", "2")
        process = start(tmp_path, words(run, tmp_path / "cache", *breaking, *place))
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "error: the " in errors
    assert " is not finite" in errors
    assert beginnings(run) == 1


def test_too_many_processes_are_refused(tmp_path: Path) -> None:
    with RayNodes() as nodes:
        process = start(
            tmp_path, words(tmp_path / "run", tmp_path / "cache", "--address", nodes.address, "--workers", "2")
        )
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert f"--workers: 2: the Ray cluster at {nodes.address} has 1 CPUs" in errors
    assert process.returncode == BAD_INPUT
    assert not (tmp_path / "cache").exists(), "nothing was built before"
