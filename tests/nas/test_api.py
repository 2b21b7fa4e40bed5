"""The Python front door on a small recorded study, and on searches of its own."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbclient
import nbformat
import pandas as pd
import pytest
import timm
import torch

import backbones
import nas.api
from nas.api import ConfigError, Model, NothingFits, SearchConfig, SelectionError, StoreError, Study, load_study
from nas.export import ExportError
from nas.search.settings import SearchCommand
from nas.select.__main__ import main as select_command
from nas.storage.store import Store
from nas.study.limits import LIMITS, LimitError
from nas.study.records import Measurement, TrialState
from tests.nas.analysis.builders import POINTS, new_store, remeasured_for_retraining, retrained, small_study
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
STOPPED = 6
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
summary = first.retrain(seeds=1, train_steps=5, runners_up=0, workers=1)
print(first.select().score in [candidate.mean for candidate in summary.complete])
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Front 1, 2, 3; throughput is 1000 times the ratio; latency is 1 ms for all; trial 6 was early-stopped."""
    study = small_study({**POINTS, STOPPED: (0.9, 9.0)})
    stopped = replace(study.trials[STOPPED], state=TrialState.STOPPED, rungs=study.trials[STOPPED].rungs[:1])
    new_store(tmp_path / "run", replace(study, trials=(*study.trials[:STOPPED], stopped)))
    return tmp_path / "run"


@pytest.fixture
def study(run: Path) -> Study:
    return load_study(run)


def with_weights(model: Model) -> torch.nn.Module:
    """Save weights as those of the study's last rung, and return their network."""
    torch.manual_seed(0)
    network = backbones.build(model.spec).eval()
    folder = model.study.run_dir / "weights"
    folder.mkdir(exist_ok=True)
    backbones.save(network, folder / f"{model.arch_id}.safetensors")
    return network


def numbers(models: tuple[Model, ...]) -> list[int]:
    return [model.number for model in models]


def test_a_study_has_its_settings_trials_and_models(study: Study) -> None:
    assert study.config == SearchConfig.from_dict(small_study().info.config)
    assert [trial.number for trial in study.trials] == [0, 1, 2, 3, 4, 5, STOPPED]
    assert numbers(study.models) == [0, 1, 2, 3, 4, 5]
    assert numbers(study.front()) == [1, 2, 3]  # the fastest first
    assert study.best().number == 2  # the fastest with at least the baseline's 0.3


def test_a_model_has_what_was_measured(study: Study) -> None:
    model, record = study.model(2), small_study().trials[2]
    assert (model.score, model.ratio, model.throughput_img_s, model.latency_ms) == (0.4, 2.0, 2000.0, 1.0)
    assert (model.params, model.macs, model.name) == (10**6, 10**7, "trial 2")
    assert model.spec.to_dict() == record.spec
    assert study.model(record.arch_id[:8] + record.arch_id[8:]) == model
    for said in ("trial 2", record.arch_id, "0.400", "2000 img/s", "1.00 ms"):
        assert said in repr(model)
    with pytest.raises(SelectionError, match="trial 6 is early-stopped"):
        study.model(STOPPED)
    with pytest.raises(SelectionError, match="no trial '99'"):
        study.model(99)


@pytest.mark.parametrize("limits", [{}, {"min_throughput_img_s": 1500.0}, {"max_latency_ms": 2.0, "max_params": 2e6}])
def test_select_answers_as_the_command_does(
    limits: dict[str, float], study: Study, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = study.select(**limits)
    words = [word for name, bound in limits.items() for word in (LIMITS[name].flag, str(bound))]
    assert select_command([str(run), *words, "--json"]) == 0
    best = json.loads(capsys.readouterr().out)["best"]
    assert (model.number, model.score, model.seeds) == (best["trial"], best["score"], best["seeds"])
    assert (model.chance_best, model.chance_to_keep) == (best["chance_best"], best["chance_to_keep"])
    assert model.measurement == Measurement.from_dict(best["measurement"])


def test_select_takes_every_limit_by_its_name_and_no_other(study: Study) -> None:
    assert list(inspect.signature(study.select).parameters) == list(LIMITS)
    with pytest.raises(TypeError, match="max_weight"):
        study.select(max_weight=3)  # type: ignore[call-arg]
    with pytest.raises(LimitError, match="--max-params: 0"):
        study.select(max_params=0)
    with pytest.raises(NothingFits, match=r"--min-throughput by 25\.0 %") as error:
        study.select(min_throughput_img_s=5000)
    assert error.value.nearest is not None
    assert error.value.nearest.number == 1


def test_retrainings_answer_after_a_refresh(study: Study, run: Path) -> None:
    before = study.select()
    with Store.open(run) as store:
        store.save_remeasurement(remeasured_for_retraining({2: 2.0, 3: 1.0}))
        for retraining in (*retrained(2, {1: 0.8, 2: 0.81}), *retrained(3, {1: 0.7, 2: 0.71})):
            store.save_retraining(retraining)
    assert study.select() == before
    study.refresh()
    model = study.select()
    assert (model.number, model.score, model.seeds) == (2, pytest.approx(0.805), 2)


def test_retrain_returns_the_trainings_of_its_own_steps(study: Study, run: Path) -> None:
    with Store.open(run) as store:
        store.save_remeasurement(remeasured_for_retraining({n: ratio for n, (_, ratio) in POINTS.items()}))
        for number in range(1, 6):
            store.save_retraining(retrained(number, {1: 0.5}, steps=60)[0])
        for number in (1, 2, 3):
            store.save_retraining(retrained(number, {1: 0.8})[0])
    summary = study.retrain(seeds=1, runners_up=0)  # for 90 steps
    assert (summary.steps, [c.mean for c in summary.candidates]) == (90, [0.8, 0.8, 0.8])


def test_the_table_the_report_and_the_figure_are_those_of_the_report(study: Study, run: Path) -> None:
    table = study.dataframe()
    assert list(table["number"]) == [0, 1, 2, 3, 4, 5, STOPPED]
    assert list(table.loc[table["on_front"], "number"]) == [1, 2, 3]
    assert isinstance(table, pd.DataFrame)
    assert study.report() == run / "report.html"
    assert small_study().trials[3].arch_id in (run / "report.html").read_text()
    assert study.plot()._repr_png_().startswith(b"\x89PNG")


def test_a_model_is_loaded_with_its_trained_weights(study: Study) -> None:
    model = study.model(1)
    with pytest.raises(SelectionError, match="the weight file of trial 1 is missing"):
        model.load()
    network = with_weights(model)
    loaded = model.load()
    assert not loaded.training
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(loaded.encode(images), network.encode(images), strict=True):
            assert torch.equal(ours, theirs)


def test_an_exported_model_is_opened_by_timm(study: Study, tmp_path: Path) -> None:
    model = study.model(1)
    with pytest.raises(ExportError, match="its weight file is missing"):
        model.export(tmp_path / "winner")
    network, images = with_weights(model), torch.randn(2, 3, 64, 64)
    folder = model.export(tmp_path / "winner", format="timm")
    opened = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(opened.encode(images).spatial, network.encode(images).spatial)
    card = (folder / "README.md").read_text()
    assert "export: `nas.api.load_study('run').model(1).export('winner', 'timm')`" in card
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"notes\.txt"):
        model.export(folder)
    model.export(folder, "torchscript", overwrite=True)
    assert not (folder / "notes.txt").exists()


def test_no_study_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="no such run folder"):
        load_study(tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="runs/latest"):
        load_study()


def test_the_latest_study_stays_the_same_when_the_link_changes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/latest").symlink_to("../run")
    study = load_study()
    (tmp_path / "runs/latest").unlink()
    study.refresh()
    assert study.run_dir == run


def test_no_torch_and_no_ray_are_imported(run: Path) -> None:
    code = f"""import sys
from nas.api import load_study
study = load_study({str(run)!r})
study.select(max_latency_ms=13)
repr(study.front())
print([name for name in ("torch", "ray", "timm") if name in sys.modules])"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "[]\n"


def test_a_search_takes_a_recipe_or_a_file_of_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def arguments(command: SearchCommand, console: object) -> None:
        commands.append(command)

    commands: list[SearchCommand] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nas.search.session.search", arguments)
    monkeypatch.setattr("nas.api.load_study", lambda folder: folder)
    nas.api.search(SearchConfig(budget=7), "runs/a", recipe="laptop")
    (tmp_path / "mine.toml").write_text("budget = 9\nseed = 3\n")
    nas.api.search(SearchConfig(budget=7), "runs/b", config_file="mine.toml")
    assert [(command.config.budget, command.config.seed) for command in commands] == [(7, 0), (7, 3)]
    assert "config_file='mine.toml'" in commands[1].text
    with pytest.raises(ConfigError, match="laptop"):
        nas.api.search(recipe="desktop")


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
def test_the_example_of_the_module_runs(tmp_path: Path) -> None:
    """It runs to the letter, but on few images and for few steps."""
    example = re.search(r"```python\n(.*?)```", nas.api.__doc__ or "", re.DOTALL)
    assert example is not None
    on_few_images = "nas.api.search = lambda config, run_dir, real=search: real(replace(config, **SMALL), run_dir)\n"
    run_script(SMALL + on_few_images + example[1], tmp_path)
    assert (tmp_path / "winner/model.safetensors").is_file()
    assert (tmp_path / "runs/nb/report.html").is_file()
