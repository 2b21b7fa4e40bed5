"""Train one architecture as a user does: real teachers, killed, interrupted and continued; its folder serves others."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from backbones import load
from nas.api import load_study, train
from nas.cli import INTERRUPTED
from nas.export.__main__ import main as export
from nas.measure import DeviceError
from nas.storage.store import Store, read_study
from nas.study.records import StudyRecord, TrialState
from nas.study.training_files import EVENTS, STEP, is_training, read_history
from nas.train import command as training
from nas.train.__main__ import main
from nas.train.arguments import parse
from nas.train.command import StateSaved
from search_space import preset
from tests.nas.doctor import gpus
from tests.waiting import PATIENCE_S, until

SPEC = preset("eradio_femto")
STEPS = 40
FEW_IMAGES = ("--train-images", "64", "--val-images", "32", "--teachers", "hed", "--batch-size", "16")
SHORT_TIMING = ("--measure-batch-size", "2", "--measure-seconds", "0.2", "--device", "cpu")
RECIPE = ("--distill", "precision=fp32")


def words(run: Path, cache: Path, *more: str) -> list[str]:
    settings = (*FEW_IMAGES, *SHORT_TIMING, *RECIPE, "--cache", str(cache), "--run", str(run))
    return ["eradio_femto", "--train-steps", str(STEPS), "--eval-every", "20", *settings, *more]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """Return the folder of a training without a break."""
    folder = tmp_path_factory.mktemp("train")
    with chdir(folder):
        assert main(words(folder / "run", cache)) == 0
    return folder / "run"


def vector(run: Path) -> torch.Tensor:
    return torch.cat(
        [p.detach().flatten() for p in load(run / "weights" / f"{SPEC.arch_id}.safetensors", SPEC).parameters()]
    )


def comparable(study: StudyRecord) -> list[object]:
    return [replace(rung, seconds=0.0) for trial in study.trials for rung in trial.rungs]


def test_the_folder_has_the_study_of_one_model(trained: Path) -> None:
    study = read_study(trained)
    (trial,) = study.trials
    assert (trial.state, trial.arch_id, trial.baseline) == (TrialState.COMPLETE, SPEC.arch_id, None)
    assert [rung.steps for rung in trial.rungs] == [20, 40]
    assert all(rung.metrics for rung in trial.rungs), "every evaluation has the probes"
    assert trial.measurement is not None
    assert trial.measurement.ratio > 0
    assert study.info.config["distill"]["schedule"] == "wsd"
    assert read_history(trained)[STEP] == [10, 20, 30, 40]
    assert list((trained / EVENTS).iterdir())
    assert not list((trained / "checkpoints").iterdir()), "of a finished training none is kept"
    assert "<html" in (trained / "report.html").read_text()
    assert load_study(trained).best().score == trial.final_score


def test_the_model_can_be_exported(trained: Path, tmp_path: Path) -> None:
    assert export([str(trained), "--format", "timm", "--out", str(tmp_path / "model"), "--heads", "all"]) == 0
    assert (tmp_path / "model" / "model.safetensors").is_file()
    about = json.loads((tmp_path / "model" / "export.json").read_text())
    assert about["weights"]["origin"] == "the training's last step"


@pytest.mark.slow
def test_an_epoch_has_as_many_images_as_there_are_without_their_views(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = words(tmp_path / "run", cache, "--views", "2")
    at = arguments.index("--train-steps")
    arguments[at : at + 4] = ["--epochs", "2", "--eval-every", "8"]
    assert main(arguments) == 0
    assert "an epoch has 4 steps: 64 images; 2 epochs go through all views of each" in " ".join(
        capsys.readouterr().err.split()
    )
    assert read_study(tmp_path / "run").trials[0].rungs[-1].steps == 8


def test_a_finished_training_is_not_repeated(
    trained: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nas.train.command._run", None)
    assert main(["--resume", str(trained), "--cache", str(cache)]) == 0
    score = read_study(trained).trials[0].final_score
    assert f"eradio_femto scores {score:.3f} after 40 steps" in capsys.readouterr().err


def test_a_training_whose_creation_was_cut_off_can_be_continued(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Store.create

    def cut_off(*arguments: Any) -> None:
        create(*arguments).close()
        raise KeyboardInterrupt  # stands for a kill at once after the study was written

    monkeypatch.setattr("nas.storage.store.Store.create", cut_off)
    assert main(words(tmp_path / "run", cache)) == INTERRUPTED
    assert len(read_study(tmp_path / "run").trials) == 0
    assert is_training(tmp_path / "run")


@pytest.mark.slow
def test_the_python_api_trains_a_spec(cache: Path, tmp_path: Path) -> None:
    study = train(
        SPEC, tmp_path / "run", train_steps=2, train_images=64, val_images=32, teachers="hed", batch_size=16,
        measure_batch_size=2, measure_seconds=0.2, device="cpu", cache=str(cache), log=(),
        distill={"precision": "fp32"},
    )  # fmt: skip
    assert study.best().spec == SPEC
    assert [rung.steps for rung in study.trials[0].rungs] == [1, 2]
    assert not (tmp_path / "run" / EVENTS).exists()


def start(run: Path, arguments: list[str], checkpoint_s: str, *program: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "BACKBONE_NAS_CHECKPOINT_S": checkpoint_s}
    return subprocess.Popen(
        [sys.executable, *(program or ("-m", "nas.train")), *arguments], stderr=subprocess.PIPE, text=True,
        env=environment, cwd=run.parent,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where a shell runs the tests by "&"
    )  # fmt: skip


def end_while_it_trains(
    run: Path, arguments: list[str], sent: signal.Signals, checkpoint_s: str, looks: int = 3
) -> str:
    """Start a training, end it by a signal when it has looked for one so often, and return what it has printed."""
    held = run.with_name(f"{run.name}-is-held")
    held.unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELD", str(held))
        patch.setenv("HELD_AT", str(looks))
        process = start(run, arguments, checkpoint_s, str(Path(__file__).with_name("held.py")))
    until(lambda: held.exists() or process.poll() is not None)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == (-sent if sent is signal.SIGKILL else INTERRUPTED), errors
    return errors


def continue_in_one_process(run: Path, cache: Path) -> str:
    """Continue a training to its end, and return what it has printed."""
    resume = ["--resume", str(run), "--cache", str(cache), "--workers", "1"]
    process = start(run, resume, checkpoint_s="30")
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert "not a checkpoint of this training" not in errors
    assert read_history(run)[STEP] == [10, 20, 30, 40]
    return errors


def step_of(run: Path) -> float:
    return max(read_history(run).get(STEP, []), default=0)


@pytest.mark.slow
def test_sigterm_saves_and_the_training_continues_to_the_same_numbers(
    trained: Path, cache: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    errors = end_while_it_trains(run, words(run, cache), signal.SIGTERM, "1000000", looks=24)
    assert "the training's state is saved" in errors
    assert f"resume with: backbone-nas train --resume {run}" in errors
    assert list((run / "checkpoints").glob("*.pt")), "SIGTERM alone has saved the state"
    assert Store.open(run, read_only=True).read().trials[0].state is TrialState.RUNNING

    again = ["--resume", str(run), "--cache", str(cache)]
    end_while_it_trains(run, again, signal.SIGKILL, "0", looks=40)
    process = start(run, again, checkpoint_s="30")
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert torch.equal(vector(run), vector(trained))
    assert comparable(read_study(run)) == comparable(read_study(trained))
    one, two = (read_history(folder) for folder in (run, trained))
    assert all(one[name] == two[name] for name in one if name.startswith(("step", "loss", "gradient", "learning")))


@pytest.mark.parametrize(
    ("raised", "checkpoint", "said"),
    [
        (StateSaved, True, "interrupted; the training's state is saved\n"),
        (KeyboardInterrupt, True, "interrupted; the training has lost the steps since its last checkpoint\n"),
        (KeyboardInterrupt, False, "interrupted; the training has no checkpoint yet and will start again\n"),
    ],
)
def test_an_interrupted_command_says_what_is_saved(
    raised: type[BaseException], checkpoint: bool, said: str, trained: Path, cache: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    if checkpoint:
        (run / "checkpoints" / "x.pt").touch()

    def interrupt(*arguments: object) -> None:
        raise raised

    monkeypatch.setattr("nas.train.command.train", interrupt)
    assert main(["--resume", str(run), "--cache", str(cache)]) == INTERRUPTED
    assert capsys.readouterr().err == f"{said}resume with: backbone-nas train --resume {run}\n"


@pytest.mark.slow
def test_a_second_command_leaves_the_training_to_the_first(cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [word if word != str(STEPS) else "1000000" for word in words(run, cache)]
    process = start(run, arguments, checkpoint_s="0")
    until(lambda: step_of(run) >= 10 or process.poll() is not None)
    second = start(run, ["--resume", str(run), "--cache", str(cache)], checkpoint_s="0")
    _, errors = second.communicate(timeout=PATIENCE_S)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert second.returncode == 2
    assert f"another command works in {run}" in errors
    assert process.returncode == INTERRUPTED


@pytest.mark.slow
def test_a_warm_training_continues_without_the_search(trained: Path, cache: Path, tmp_path: Path) -> None:
    search, run = tmp_path / "search", tmp_path / "run"
    shutil.copytree(trained, search)
    arguments = [str(search), "--train-steps", str(STEPS), "--eval-every", "20", "--run", str(run), "--warm"]
    end_while_it_trains(run, [*arguments, "--cache", str(cache)], signal.SIGINT, "0")
    shutil.rmtree(search)
    continue_in_one_process(run, cache)
    (rung, _) = read_study(run).trials[0].rungs
    assert rung.score > read_study(trained).trials[0].rungs[0].score + 0.05, "it began with trained weights"


@pytest.mark.slow
def test_a_warm_training_goes_to_other_teachers(
    trained: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At a rate of almost 0 the weights are those that it began with."""
    recipe = ("--distill", "learning_rate=1e-12", "--train-steps", "2", "--eval-every", "2")
    arguments = [str(trained), "--warm", *recipe, "--teachers", "hed,xfeat", "--cache", str(cache)]
    assert main([*arguments, "--run", str(tmp_path / "run")]) == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert "--warm: fresh heads for xfeat, which" in shown
    torch.testing.assert_close(vector(tmp_path / "run"), vector(trained))
    (rung,), (*_, last) = (read_study(run).trials[0].rungs for run in (tmp_path / "run", trained))
    assert rung.teachers["hed"]["spatial"] == pytest.approx(last.teachers["hed"]["spatial"], abs=0.02), "its own head"
    assert rung.teachers["xfeat"]["spatial"] < 0.1, "a fresh one"


@pytest.mark.slow
def test_live_teachers_and_two_processes_train_and_continue(cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    end_while_it_trains(run, words(run, cache, "--live", "--workers", "2"), signal.SIGINT, "0")
    continue_in_one_process(run, cache)
    assert read_study(run).trials[0].rungs[-1].score > 0


def test_a_gpu_for_one_process_is_refused_before_its_teachers_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = parse(words(tmp_path / "run", tmp_path))
    config = replace(command.session.config, device="cuda")
    gpus.install_exclusive(monkeypatch)
    monkeypatch.delattr(training, "open_targets")
    new = replace(command, session=replace(command.session, config=config))
    with pytest.raises(DeviceError, match="compute mode EXCLUSIVE_PROCESS"):
        training.train(new, Console(quiet=True))
    with pytest.raises(NameError, match="open_targets"):  # measured already, and each of its processes has a GPU
        training.train(replace(new, session=replace(new.session, resume=True)), Console(quiet=True))


@pytest.mark.slow
def test_a_training_that_breaks_down_says_where(cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = words(run, cache, "--distill", "learning_rate=100", "--distill", "weight_decay=100")
    process = start(run, arguments, checkpoint_s="0")
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1, errors
    quantity = r"(loss of hed/\w+|gradient norm)"
    assert re.search(rf"^error: the {quantity} is not finite at step \d+$", errors, re.MULTILINE)
