"""Train networks of timm as a user does; what is written serves those who have timm alone."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from backbones import TimmBackbone, WeightsError, build_network, load, save
from nas.api import load_study
from nas.distill import distributed
from nas.export import to_timm
from nas.export.__main__ import main as export
from nas.export.source import ExportSource
from nas.measure.runtime_spec import Arm
from nas.remeasure.__main__ import main as remeasure
from nas.storage.store import read_study
from nas.study.records import TrialState
from nas.train.__main__ import main
from search_space import TimmSpec, preset
from tests.nas.train.test_command import words

SPEC = TimmSpec("mobilenetv3_small_050")
# Of plain timm, in a process that cannot import this project.
OPEN = """
import sys
for ours in ("backbones", "nas", "search_space"):
    sys.modules[ours] = None
import timm, torch
model = timm.create_model(f"local-dir:{sys.argv[1]}", pretrained=True).eval()
torch.manual_seed(0)
with torch.inference_mode():
    print(float(model(torch.randn(2, 3, 64, 64)).square().sum()))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    with chdir(folder):
        _, *settings = words(folder / "run", folder / "cache")
        assert main([f"timm:{SPEC.name}", "--img-size", "64", *settings]) == 0
    return folder / "run"


@pytest.mark.slow
def test_its_folder_is_a_study_of_the_network(trained: Path) -> None:
    (trial,) = read_study(trained).trials
    assert (trial.state, trial.spec, trial.arch_id) == (TrialState.COMPLETE, SPEC.to_dict(), SPEC.arch_id)
    assert trial.params is not None
    assert trial.params > 100_000
    assert f"timm:{SPEC.name}" in (trained / "report.html").read_text()
    assert f"timm's {SPEC.name}" in repr(load_study(trained).best())
    assert remeasure([str(trained), "--device", "cpu", "--measure-seconds", "0.2"]) == 0


@pytest.mark.slow
def test_plain_timm_opens_its_export(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    assert export([str(trained), "--format", "timm", "--out", str(out), "--heads", "all"]) == 0
    assert json.loads((out / "config.json").read_text())["architecture"] == SPEC.name
    printed = subprocess.run([sys.executable, "-c", OPEN, str(out)], capture_output=True, text=True, check=True).stdout
    model = load_study(trained).best().load()
    torch.manual_seed(0)
    with torch.inference_mode():
        expected = float(model.encode(torch.randn(2, 3, 64, 64)).summary.square().sum())
    assert float(printed) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_its_graph_can_be_exported_but_not_for_transformers(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export([str(trained), "--format", "onnx", "--out", str(tmp_path / "graph")]) == 0
    assert (tmp_path / "graph" / "model.onnx").is_file()
    assert export([str(trained), "--format", "hf", "--out", str(tmp_path / "hf")]) != 0
    assert "is a network of timm; choose timm, onnx or torchscript" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "levit_128s"])
def test_weights_are_loaded_as_they_were_saved(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_network(TimmSpec(name))
    assert isinstance(model, TimmBackbone)
    save(model, tmp_path / "weights.safetensors")
    loaded = load(tmp_path / "weights.safetensors", TimmSpec(name))
    images = torch.randn(2, 3, 256, 256)
    if name.startswith("levit"):  # its positions are for one size
        images = images[..., :224, :224]
    with torch.inference_mode():
        for actual, expected in zip(loaded.eval().encode(images), model.eval().encode(images), strict=True):
            assert torch.equal(actual, expected)
    with pytest.raises(WeightsError, match="holds architecture"):
        load(tmp_path / "weights.safetensors", preset("eradio_femto"))


@pytest.mark.parametrize(
    ("name", "px"),
    [
        ("vit_tiny_patch16_224", 64),
        ("coat_tiny", 224),  # shares parameters
        ("levit_128s", 224),
    ],
)
def test_timm_builds_an_exported_network_for_the_same_images(name: str, px: int, tmp_path: Path) -> None:
    model = build_network(TimmSpec(name)).eval().requires_grad_(False)
    unused = cast(Any, None)
    report = to_timm.write(ExportSource(unused, unused, model, {}, px), tmp_path, Arm(form="unfused"))
    assert report.lines == ("opened by timm: summary and feature map are equal to the trained model's",)


def test_activations_of_batch_norms_stay_where_ranks_share_their_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_network(SPEC).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before = model.encode(images).summary
        monkeypatch.setattr(distributed, "world_size", lambda: 2)
        distributed.convert_sync_batchnorm(model, torch.device("cuda"))
        assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in model.modules())
        assert torch.equal(model.encode(images).summary, before)


def test_a_network_that_cannot_recompute_activations_says_so() -> None:
    build_network(TimmSpec("resnet18")).set_grad_checkpointing()
    with pytest.raises(ValueError, match="it cannot recompute activations"):
        build_network(TimmSpec("inception_v3")).set_grad_checkpointing()
