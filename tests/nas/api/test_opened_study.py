"""The study of a run folder and its models, on a small recorded study."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
import torch

import backbones
import nas.api
from nas.api import ConfigError, Model, NothingFits, SearchConfig, SelectionError, StoreError, Study, load_study
from nas.export import ExportError
from nas.measure import ArmError, DeviceError
from nas.select.__main__ import main as select_command
from nas.storage.store import Store
from nas.study.limits import LIMITS, LimitError
from nas.study.records import Measurement, TrialState
from tests.nas.analysis.builders import POINTS, new_store, remeasured_for_retraining, retrained, small_study
from tests.waiting import PATIENCE_S

STOPPED = 6


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
    assert list(inspect.signature(study.select).parameters) == [*LIMITS, "remeasurement"]
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
    summary = study.retrain(seeds=1, near_misses=0, train_steps=90)
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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "ONNX"}, "--format: 'ONNX': must be 'timm', 'hf', 'onnx'"),
        ({"format": "onnx", "precision": "int8"}, "--precision: 'int8': must be 'fp32'"),
    ],
)
def test_an_export_that_no_format_makes_is_refused(
    options: dict[str, Any], words: str, study: Study, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        study.model(1).export(tmp_path / "winner", **options)


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
    model.export(folder, "timm", overwrite=True)
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
    assert Study("run").info == study.info
    (tmp_path / "runs/latest").unlink()
    study.refresh()
    assert study.run_dir == run


def test_a_model_is_named_by_number_id_or_best_and_an_error_names_no_flag(study: Study) -> None:
    best = study.best()
    names = (best.number, best.arch_id[:8], "best", best.name)
    assert [study.model(which).number for which in names] == [best.number] * len(names)
    assert [study.model(model.name) for model in study.models] == list(study.models), "baselines by their names"
    with pytest.raises(SelectionError, match=r"^trial: the study has no trial '99'; give a number"):
        study.model(99)


def test_the_errors_that_are_promised_can_be_caught(study: Study) -> None:
    promised = re.findall(r"`(\w+)` (?:for|where)", nas.api.__doc__ or "")
    some = {"DataError", "ExportError", "LimitError", "SearchFailed", "TeacherError", "TrainingFailed", "WeightsError"}
    assert {"ConfigError", *some} < set(promised)
    for error in (LimitError, ArmError, DeviceError):
        assert issubclass(error, nas.api.ConfigError), "the value of one setting is impossible"
    for name in promised:
        error = getattr(nas.api, name)
        assert name in nas.api.__all__
        assert issubclass(error, RuntimeError if name in ("SearchFailed", "TrainingFailed") else ValueError)
    with pytest.raises(nas.api.LimitError):
        study.select(max_params=-1)
    with pytest.raises(AttributeError):
        nas.api.Nothing  # noqa: B018


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
