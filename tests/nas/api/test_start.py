"""Searches that Python starts, the notebook, and the example and the types of the front door."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

import nas.api
from nas.api import ConfigError, DataError, SearchConfig, StoreError, TeacherError, load_study
from nas.search.settings import SearchCommand
from nas.train.training_settings import TrainCommand
from tests.nas.analysis.builders import new_store, small_study
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[3]
SMALL = """
from dataclasses import replace
import nas.api
from nas.api import DistillConfig, SearchConfig, load_study, search

SMALL = {
    "budget": 2, "baselines": (), "scale": (), "train_images": 64, "val_images": 32, "measure_seconds": 0.2,
    "distill": DistillConfig(rung_steps=(2, 4), precision="fp32"),
}
"""
SEARCHES = """
import _thread, threading, time
from pathlib import Path
import ray

def counted(study):
    return sum(trial.counts for trial in study.trials)

first = search(SearchConfig(**SMALL), "runs/first", workers=1)
print(counted(first))

def interrupt():
    while not list(Path("runs/second/weights").glob("*")):  # from then on the study can be read
        time.sleep(0.1)
    while not counted(load_study("runs/second")):
        time.sleep(0.1)
    _thread.interrupt_main()

threading.Thread(target=interrupt, daemon=True).start()
try:
    search(SearchConfig(**{**SMALL, "budget": 50}), run_dir="runs/second", workers=1)
except KeyboardInterrupt:
    second = load_study("runs/second")
try:
    search(SearchConfig(seed=3), "runs/second", resume=True)
except ValueError as error:
    print(error)
resumed = search(run_dir="runs/second", resume=True, max_hours=1e-6, workers=1)
print(counted(second), counted(resumed))
extended = []
again = lambda: extended.append(search(run_dir="runs/first", resume=True, extend=1, workers=1))
thread = threading.Thread(target=again)
thread.start()
thread.join()
print(counted(*extended), ray.is_initialized())
again = first.remeasure(trials="all", measure_seconds=0.2)
print(set(again.measurements) == {model.number for model in first.models})
summary = first.retrain(seeds=1, train_steps=5, near_misses=0, workers=1)
print(first.select().score in [candidate.mean for candidate in summary.complete])
"""


def test_a_search_takes_a_recipe_or_a_file_of_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def arguments(command: SearchCommand, console: object) -> None:
        commands.append(command)

    commands: list[SearchCommand] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nas.search.session.search", arguments)
    monkeypatch.setattr("nas.api.start.load_study", lambda folder: folder)
    nas.api.search(SearchConfig(budget=7), "runs/a", recipe="laptop")
    (tmp_path / "mine.toml").write_text("budget = 9\nseed = 3\n")
    nas.api.search(SearchConfig(budget=7), "runs/b", config_file="mine.toml")
    assert [(command.config.budget, command.config.seed) for command in commands] == [(7, 0), (7, 3)]
    assert "config_file='mine.toml'" in commands[1].text
    with pytest.raises(ConfigError, match="laptop"):
        nas.api.search(recipe="desktop")


@pytest.mark.parametrize(
    "arguments", [{"resume": "runs/a"}, {"resume": Path("runs/a")}, {"resume": True, "run_dir": "runs/a"}]
)
def test_a_search_is_resumed_by_its_folder(
    arguments: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="runs/a"):
        nas.api.search(extend=50, **arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"config": {"budget": 2}}, r"config: \{'budget': 2\}: must be a SearchConfig"),
        ({"resume": 3}, "resume: 3: must be True, False or the folder"),
        ({"resume": "runs/a", "run_dir": "runs/b"}, "run_dir: not with"),
        ({"teacher_weights": "dino.safetensors"}, "teacher_weights: 'dino.safetensors': must be a table"),
        ({"config": SearchConfig(runtime="magic")}, "magic"),
    ],
)
def test_a_search_refuses_what_it_cannot_take_as_a_setting(
    arguments: Mapping[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words):
        nas.api.search(**arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batchsize": 5}, "batchsize: no such setting; did you mean batch_size"),
        ({"learning_rate": 0.1}, "learning_rate: .*distill={'learning_rate': ...}"),
        ({"distill": {"learning_rate": -1}}, "learning_rate: -1: must be greater than 0"),
        ({"arch": {"stages": []}}, "ARCH: .*must be the name of a preset"),
        ({"arch": None, "train_steps": None, "resume": True}, "--resume: True: Input is not a valid path"),
    ],
)
def test_a_training_refuses_what_it_would_ignore_or_cannot_take(
    options: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words):
        nas.api.train(**{"arch": "eradio_pico", "train_steps": 5, **options})
    assert not list(tmp_path.iterdir())


def test_a_model_is_trained_as_the_trial_of_its_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def arguments(command: TrainCommand, console: object) -> None:
        commands.append(command)

    commands: list[TrainCommand] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nas.train.command.train", arguments)
    monkeypatch.setattr("nas.api.start.load_study", lambda folder: folder)
    new_store(tmp_path / "search", small_study())
    model = load_study("search").model(3)
    nas.api.train(model, "runs/a", train_steps=7, device="cpu", cache=tmp_path / "cache")
    (command,) = commands
    assert (command.plan.name, command.plan.architecture) == ("trial3", model.spec)
    assert command.session.cache == str(tmp_path / "cache")
    assert "'trial': '3'" in command.session.text or "trial='3'" in command.session.text
    with pytest.raises(ConfigError, match="trial: not with a model"):
        nas.api.train(model, trial=2, train_steps=7)


@pytest.mark.parametrize(
    ("start", "error"),
    [
        (lambda **settings: nas.api.search(SearchConfig(**settings)), TeacherError),
        (lambda **settings: nas.api.train("eradio_pico", train_steps=5, **settings), TeacherError),
        (lambda **settings: nas.api.search(SearchConfig(**settings)), DataError),
    ],
)
def test_a_refused_start_leaves_no_folder_of_its_own(
    start: Any, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKBONE_NAS_CACHE", str(tmp_path / "cache"))
    wrong = {"teachers": "nope"} if error is TeacherError else {"data": "imagefolder:none"}
    with pytest.raises(error):
        start(device="cpu", **wrong)
    assert list(tmp_path.glob("runs/*")) == []


def test_a_refused_search_leaves_a_folder_that_existed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for folder, stays in (("mine", True), ("new", False)):
        with pytest.raises(TeacherError):
            nas.api.search(SearchConfig(teachers="nope", device="cpu"), tmp_path / folder)
        assert (tmp_path / folder).exists() == stays


@pytest.mark.slow
def test_mypy_knows_the_types_of_what_the_front_door_returns(tmp_path: Path) -> None:
    code = """
from pathlib import Path
from typing import assert_type
from backbones import Network
from nas.api import ConfigError, Model, SearchConfig, Study, load_study, search

study = search(SearchConfig(budget=20), run_dir="runs/nb", workers=1)
assert_type(study, Study)
assert_type(load_study(), Study)
assert_type(study.front(), tuple[Model, ...])
best = study.select(max_latency_ms=13)
assert_type(best, Model)
assert_type(best.load(), Network)
assert_type(best.latency_ms, float)
assert_type(best.export("winner", format="hf"), Path)
assert_type(study.report(), Path)
study.select(max_weight=3)  # type: ignore[call-arg]
best.export("winner", format="coreml")  # type: ignore[arg-type]
"""
    (tmp_path / "user.py").write_text(code)
    options = ["--warn-unused-ignores", "--follow-imports=silent", "--cache-dir", str(tmp_path / "cache")]
    mypy = [sys.executable, "-m", "mypy", *options, str(tmp_path / "user.py")]
    result = subprocess.run(mypy, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert result.returncode == 0, result.stdout


def run_script(code: str, folder: Path) -> str:
    """Run a script as a user would, and return what it prints."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "BACKBONE_NAS_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
@pytest.mark.exhaustive  # failed in one of four runs after the lock was mended, for a reason that was not kept
@pytest.mark.machine
@pytest.mark.ray
def test_searches_run_one_after_the_other_and_an_interrupted_one_is_resumed(tmp_path: Path) -> None:
    printed = run_script(SMALL + SEARCHES, tmp_path)
    lines = [line for line in printed.splitlines() if "report.html" not in line]
    first, refused, second, extended, all_measured, selected_by_retraining = lines[-6:]
    assert first == "2"
    assert "seed: 0 -> 3" in refused
    interrupted, resumed = map(int, second.split())
    assert 0 < interrupted <= resumed < 50
    assert extended == "3 False"  # in another thread than the main one; Ray has ended
    assert (all_measured, selected_by_retraining) == ("True", "True")
    study = load_study(tmp_path / "runs/first")
    assert study.info.command == (
        "nas.api.search(SearchConfig(budget=2, train_images=64, val_images=32, measure_seconds=0.2, baselines=(),"
        " scale=(), distill=DistillConfig(precision='fp32', rung_steps=(2, 4))), run_dir='runs/first', workers=1)"
    )
    assert study.config.budget == 3


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.machine
@pytest.mark.ray
def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "docs/tutorials/notebook.ipynb", as_version=4)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NOTEBOOK_BUDGET": "4"}
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=PATIENCE_S, resources=place).execute(env=environment)
    assert (tmp_path / "winner/model.safetensors").is_file()
    pictures = [out for cell in notebook.cells for out in cell.get("outputs", ()) if "image/png" in out.get("data", {})]
    assert len(pictures) == 2  # the front, and the photographs seen by the model


def test_the_notebook_in_the_docs_has_its_outputs_and_names_no_machine() -> None:
    path = ROOT / "docs/tutorials/notebook.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    assert path.stat().st_size < 500_000
    assert all(cell.outputs for cell in cells if cell.cell_type == "code" and not cell.source.startswith("import os"))
    assert not re.search(r"/(home|root|tmp|work|Users)/", path.read_text())
    assert "error" not in {out.get("output_type") for cell in cells for out in cell.get("outputs", ())}


@pytest.mark.slow
@pytest.mark.machine
@pytest.mark.ray
def test_the_example_of_the_module_runs(tmp_path: Path) -> None:
    """It runs to the letter, but on few images and for few steps."""
    example = re.search(r"```python\n(.*?)```", nas.api.__doc__ or "", re.DOTALL)
    assert example is not None
    on_few_images = "nas.api.search = lambda config, run_dir, real=search: real(replace(config, **SMALL), run_dir)\n"
    run_script(SMALL + on_few_images + example[1], tmp_path)
    assert (tmp_path / "winner/model.safetensors").is_file()
    assert (tmp_path / "runs/nb/report.html").is_file()
