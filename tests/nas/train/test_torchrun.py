"""Two processes that torchrun starts train one model, and save their state when they are asked to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nas.backend.training_rank import TrainingJob
from nas.distill.live import LiveTeachers
from nas.storage.store import read_study
from nas.study.records import TrialState
from nas.train.__main__ import main
from nas.train.arguments import parse
from nas.train.torchrun import _rank_spec
from nas.validation import ConfigError
from tests.nas.study.builders import record, search_config
from tests.nas.train.test_command import step_of, words
from tests.waiting import PATIENCE_S, until


def start(run: Path, *arguments: str) -> subprocess.Popen[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch = [*torchrun, "-m", "nas.train", "--"]
    environment = {**os.environ, "BACKBONE_NAS_CHECKPOINT_S": "1000000", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*launch, *arguments], stderr=subprocess.PIPE, text=True, env=environment, cwd=run.parent)


@pytest.mark.slow
def test_torchrun_starts_the_ranks(tmp_path: Path) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    process = start(run, *words(run, cache))
    until(lambda: step_of(run) >= 10 or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert "2 processes" in errors
    assert "the training's state is saved" in errors
    assert list((run / "checkpoints").glob("*.pt")), errors
    assert read_study(run).trials[0].state is TrialState.RUNNING

    process = start(run, "--resume", str(run), "--cache", str(cache))
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    (trial,) = read_study(run).trials
    assert (trial.state, trial.rungs[-1].steps) == (TrialState.COMPLETE, 40)
    assert not list((run / "checkpoints").iterdir()), "of a finished training none is kept"


@pytest.mark.slow
def test_processes_of_a_finished_training_end(tmp_path: Path) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    assert main([*words(run, cache), "--train-steps", "2"]) == 0
    for arguments, said in ((["--resume", str(run), "--cache", str(cache)], "after 2 steps"), (["--help"], "")):
        process = start(run, *arguments)
        try:
            _, errors = process.communicate(timeout=120.0)
        finally:
            process.terminate()  # torchrun ends the ranks
        assert process.returncode == 0, errors
        assert said in errors
        assert "Traceback" not in errors


def test_each_process_has_its_share_of_the_teachers_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = tuple(f"cuda:{number}" for number in range(4, 8))
    live = LiveTeachers("builtin", 64, "hed", tmp_path, devices=devices)
    job = TrainingJob(record(1, (), 1.0), search_config(), tmp_path, live=live)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    found = []
    for rank in range(4):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank % 2))
        spec = _rank_spec(job, tmp_path)
        assert spec.job.live is not None
        found.append(spec.job.live.devices)
    assert found == [("cuda:4", "cuda:5"), ("cuda:6", "cuda:7")] * 2


def test_workers_are_those_of_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    arguments = ("eradio_pico", "--train-steps", "10", "--device", "cpu")
    assert parse(arguments).session.config.distill.ranks == 4
    with pytest.raises(ConfigError, match="--workers: torchrun has started the processes"):
        parse([*arguments, "--workers", "2"])
