"""What is written opens where this project is not installed, and computes what the net computes."""

from __future__ import annotations

import ast
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from backbones import build, load, save
from nas.analysis.run_files import TrainedWeights
from nas.cli import FAILED
from nas.data.dataset import square
from nas.distill.folded_heads import load_heads
from nas.export import to_hf, to_onnx, to_timm, to_torchscript
from nas.export.__main__ import main
from nas.export.graph import GraphTimes
from nas.export.source import IMAGES_USAGE, ExportSource
from nas.export.to_hf import copied_modules
from nas.measure.runtime_spec import Arm, ArmError
from nas.study.timing_doubts import CONTENDED, TOO_FEW
from nas.teachers import TEACHERS
from search_space import ArchSpec, StageSpec
from tests.backbones.builders import STAGES
from tests.nas.analysis.builders import new_store
from tests.nas.export.builders import SPEC, Made
from tests.waiting import PATIENCE_S

ALONE = 'import sys\nsys.modules.update(dict.fromkeys(("nas", "backbones", "search_space", "reports")))\n'
BESIDE_TIMM = 'import sys\nsys.modules.update(dict.fromkeys(("nas", "reports")))\n'


def export(made: Made, folder: Path, *words: str) -> Path:
    out = folder / "net"
    assert main([str(made.run), "--out", str(out), *words]) == 0
    return out


def elsewhere(script: str, folder: Path, **tensors: torch.Tensor) -> dict[str, torch.Tensor]:
    """What `script` leaves in `out`, of `given`, in a process that starts in `folder`."""
    save_file(tensors, folder / "given")
    whole = f"{script}\nfrom safetensors.torch import save_file\nsave_file(out, 'out')\n"
    words = [sys.executable, "-c", "from safetensors.torch import load_file\ngiven = load_file('given')\n" + whole]
    settings = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "modules")}
    done = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return load_file(folder / "out")


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def images(batch: int = 2, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def net(made: Made) -> torch.nn.Module:
    return load(made.run / "weights" / f"{SPEC.arch_id}.safetensors").eval()


def features(net: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        summary, spatial = net.encode((x - 0.5) / 0.25)  # type: ignore[operator]
    return summary, spatial


def test_the_example_for_timm_trains_every_parameter_of_its_classifier(made: Made, tmp_path: Path) -> None:
    """DistributedDataParallel refuses trainable parameters without a gradient, as those of a neck would be."""
    trial = made.study.trials[1]
    weights = TrainedWeights(made.run, trial.rungs[-1], 0, "the search")
    report = to_timm.write(ExportSource(trial, weights, build(SPEC).eval(), {}, 64), tmp_path, Arm(form="unfused"))
    (line,) = (line for line in report.usage.splitlines() if line.startswith("classifier = "))
    names: dict[str, Any] = {"timm": timm}
    exec(line.replace("FOLDER", str(tmp_path)), names)
    names["classifier"].train()(images()).square().sum().backward()
    assert [name for name, p in names["classifier"].named_parameters() if p.grad is None] == []


def test_timm_opens_the_folder(made: Made, net: torch.nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = export(made, tmp_path, "--format", "timm", "--heads", "xfeat")
    assert capsys.readouterr().out.startswith(
        f"{folder}: trial 1, {SPEC.arch_id}; weights: the search's last rung, score "
    )
    script = (
        BESIDE_TIMM
        + """
import timm, torch
import backbones
net = timm.create_model("local-dir:net", pretrained=True).eval()
maps = timm.create_model("local-dir:net", pretrained=True, features_only=True, out_indices=(1, 3)).eval()
tuned = timm.create_model("local-dir:net", pretrained=True, num_classes=7)
data = timm.data.resolve_data_config({}, model=net)
assert (data["mean"], data["std"], data["interpolation"]) == ([0.5] * 3, [0.25] * 3, "bilinear"), data
assert data["input_size"] == [3, 64, 64] and data["crop_pct"] == 1
x = (given["x"] - 0.5) / 0.25
with torch.no_grad():
    summary, spatial = net.encode(x)
    first, last = maps(x)
    out = {"summary": summary, "spatial": spatial.contiguous(), "first": first.contiguous(), "last": last.contiguous()}
    out |= {"pooled": net(x), "logits": tuned(x)}
"""
    )
    found = elsewhere(script, tmp_path, x=images())
    summary, spatial = features(net, images())
    torch.testing.assert_close(found["summary"], summary)
    torch.testing.assert_close(found["spatial"], spatial)
    assert [found[name].shape[1] for name in ("first", "last", "pooled", "logits")] == [32, 96, 96, 7]
    assert list(load_heads(folder / "heads.safetensors")) == ["xfeat"]
    assert json.loads((folder / "spec.json").read_text()) == SPEC.to_dict()


LLAVA = (
    ALONE
    + """
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, LlamaConfig, LlamaForCausalLM
tower = AutoModel.from_pretrained("net", trust_remote_code=True)
assert not tower.training
processor = AutoImageProcessor.from_pretrained("net")
picture = Image.fromarray((255 * given["x"][0].movedim(0, -1)).byte().numpy())
pixels = processor(images=picture, return_tensors="pt")["pixel_values"]
size = tower.get_nearest_supported_resolution(100, 140)._asdict()  # as the card shows it
other = processor(images=picture, size=size, do_center_crop=False, return_tensors="pt")["pixel_values"]
assert other.shape[2:] == (96, 128), other.shape
with torch.no_grad():
    summary, tokens = tower(given["x"])
    _, spatial = tower(given["x"], feature_fmt="NCHW")
    out = {"summary": summary, "spatial": spatial.contiguous(), "tokens": tokens.contiguous(), "pixels": pixels}
assert (tower.config.hidden_size, tower.patch_size) == (tokens.shape[2], 64 // spatial.shape[-1])
assert tower.get_nearest_supported_resolution(70, 10) == (64, 32)
assert tower.preferred_resolution == (64, 64)

# As LLaVA: tokens of the image through a projector, before those of the text, in a language model.
torch.manual_seed(0)
language = LlamaForCausalLM(LlamaConfig(vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                                        num_attention_heads=2, num_key_value_heads=2))
projector = torch.nn.Linear(tower.config.hidden_size, 32)
text = torch.arange(5).repeat(2, 1)
seen = projector(tower(given["x"]).features)
embedded = torch.cat([seen, language.get_input_embeddings()(text)], 1)
labels = torch.cat([torch.full(seen.shape[:2], -100), text], 1)
language(inputs_embeds=embedded, labels=labels).loss.backward()
# The last norm makes the summary alone.
unreached = [name for name, p in tower.network.named_parameters() if p.grad is None and not name.startswith("norm.")]
assert not unreached and projector.weight.grad.abs().sum() > 0, unreached
assert all(p.grad.isfinite().all() for p in tower.parameters() if p.grad is not None)

named = AutoModel.from_pretrained("net", trust_remote_code=True, adaptor_names=["xfeat"])
with torch.no_grad():
    found = named(given["x"])
out |= {"teacher": found["xfeat"].features.contiguous(), "of_teacher": found["xfeat"].summary}
assert torch.equal(found["backbone"].summary, summary)
half = AutoModel.from_pretrained("net", trust_remote_code=True, dtype=torch.bfloat16)
assert half(given["x"]).summary.dtype == torch.bfloat16
with torch.no_grad():
    tower.switch_to_deploy()
    torch.testing.assert_close(tower(given["x"]).summary, summary, atol=1e-4, rtol=1e-4)
"""
)


@pytest.mark.slow
def test_transformers_checks_the_folder_before_it_appears(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    export(made, tmp_path, "--format", "hf")
    assert "opened by transformers without this project: " in capsys.readouterr().out
    monkeypatch.setattr(to_hf, "MEAN", (0.4, 0.5, 0.5))
    assert main([str(made.run), "--format", "hf", "--out", str(tmp_path / "wrong")]) == FAILED
    assert "differs from PyTorch by" in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()


def test_transformers_opens_the_folder_for_a_language_model(
    made: Made,
    net: torch.nn.Module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(to_hf, "_check", lambda *_: 0.0)  # this test opens the folder itself
    folder = export(made, tmp_path, "--format", "hf", "--heads", "all")
    assert "Apache License" in (folder / "LICENSE").read_text()
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o666 & ~current_umask()}
    found = elsewhere(LLAVA, tmp_path, x=images())
    summary, spatial = features(net, images())
    torch.testing.assert_close(found["summary"], summary)
    torch.testing.assert_close(found["spatial"], spatial)
    torch.testing.assert_close(found["tokens"], spatial.flatten(2).transpose(1, 2))
    assert found["pixels"].shape == (1, 3, 64, 64)
    torch.testing.assert_close(found["pixels"][0], images()[0], atol=1 / 255, rtol=0)  # in [0, 1], not normalized
    adaptor = load_heads(made.run / "weights" / f"{SPEC.arch_id}.heads.safetensors")["xfeat"]
    of_teacher, mapped = adaptor(summary, spatial, images())
    torch.testing.assert_close(found["of_teacher"], of_teacher)
    torch.testing.assert_close(found["teacher"], mapped.flatten(2).transpose(1, 2))
    assert not [path.name for path in folder.glob("*.py") if PACKAGES & set(imported(path.read_text()))]


DEPLOYED = (
    ALONE
    + """
import torch
from transformers import AutoModel
def opened(folder, **options):
    return AutoModel.from_pretrained(folder, trust_remote_code=True, adaptor_names="xfeat", **options)
tower = opened("net")
tower.switch_to_deploy()
tower.save_pretrained("saved")
again, narrow = opened("saved"), opened("net", dtype=torch.bfloat16)
narrow.switch_to_deploy()
with torch.no_grad():
    (deployed, teacher), (saved, _), (half, _) = (model(given["x"]).values() for model in (tower, again, narrow))
out = {"deployed": deployed.summary, "saved": saved.summary, "half": half.features.contiguous()}
"""
)


@pytest.mark.slow
def test_a_deployed_model_is_saved_and_opened_as_such(
    made: Made, net: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_hf, "_check", lambda *_: 0.0)
    export(made, tmp_path, "--format", "hf", "--heads", "xfeat")
    found = elsewhere(DEPLOYED, tmp_path, x=images())
    torch.testing.assert_close(found["deployed"], features(net, images())[0], atol=1e-4, rtol=1e-4)
    assert torch.equal(found["saved"], found["deployed"])
    assert found["half"].dtype is torch.bfloat16


PACKAGES = {"backbones", "nas", "search_space"}


def imported(source: str) -> Iterator[str]:
    """Packages that are imported absolutely."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]


def test_copied_code_imports_none_of_this_project() -> None:
    files = copied_modules("nas.export.radio", to_hf.MODULE)
    assert len(files) > 10
    assert not [name for name, source in files.items() if PACKAGES & set(imported(source))]


def test_copied_code_asks_transformers_for_no_module_that_windows_lacks(tmp_path: Path) -> None:
    from transformers.dynamic_module_utils import get_imports

    wanted: set[str] = set()
    for name, source in copied_modules("nas.export.radio", to_hf.MODULE).items():
        (tmp_path / name).write_text(source)
        wanted |= set(get_imports(tmp_path / name))
    assert wanted >= {"torch", "timm", "os"}
    assert not wanted & {"fcntl", "grp", "posix", "pwd", "resource", "syslog", "termios"}


IN_ONNX_RUNTIME = (
    ALONE
    + """
import onnxruntime, torch
session = onnxruntime.InferenceSession("net/model.onnx")
found = session.run(None, {"images": given["x"].numpy()})
out = {name: torch.from_numpy(array) for name, array in zip("abcd", found)}
"""
)


def check_in_onnx_runtime(net: torch.nn.Module, folder: Path, x: torch.Tensor) -> dict[str, torch.Tensor]:
    found = elsewhere(IN_ONNX_RUNTIME, folder, x=(x - 0.5) / 0.25)
    summary, spatial = features(net, x)
    torch.testing.assert_close(found["a"], summary, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["b"], spatial, atol=1e-4, rtol=1e-4)
    return found


def test_onnx_runs_at_other_batches(
    made: Made,
    net: torch.nn.Module,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(to_onnx, "size_step", lambda model: 96)  # as of windows that 64 px are no multiple of
    folder = export(made, tmp_path, "--format", "onnx", "--heads", "lite0")
    printed = capsys.readouterr().out
    assert "batch: any; size: 64 x 64 px only (its windows need multiples of 96 px)" in printed
    graph = onnx.load(folder / "model.onnx")
    assert [output.name for output in graph.graph.output] == ["summary", "spatial", "lite0.summary", "lite0.spatial"]
    found = check_in_onnx_runtime(net, tmp_path, images(3))
    assert found["c"].shape == (3, TEACHERS["lite0"].load().summary_dim)


@pytest.mark.slow
def test_onnx_runs_at_other_sizes(
    made: Made, net: torch.nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(made, tmp_path, "--format", "onnx")
    assert "batch: any; size: any size in multiples of 32 px" in capsys.readouterr().out
    check_in_onnx_runtime(net, tmp_path, images(3, 96, 160))
    graph = onnx.load(tmp_path / "net" / "model.onnx").graph
    named = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.input, *graph.output)]
    assert named[0] == ["batch", 3, "32*rows", "32*columns"]
    assert [shape[0] for shape in named] == ["batch"] * 3
    run = to_onnx.session(tmp_path / "net" / "model.onnx")
    for sides in ((50, 50), (48, 64)):
        with pytest.raises(ArmError):
            run(torch.randn(1, 3, *sides))


def test_torchscript_is_traced_at_the_size_that_is_asked_for(made: Made, net: torch.nn.Module, tmp_path: Path) -> None:
    folder = export(made, tmp_path, "--format", "torchscript", "--img-size", "96")
    model = torch.jit.load(folder / "model.pt")
    x = images(2, 96, 96)
    torch.testing.assert_close(model((x - 0.5) / 0.25)[1], features(net, x)[1], atol=1e-4, rtol=1e-4)
    assert json.loads((folder / "preprocessor_config.json").read_text())["crop_size"] == {"height": 96, "width": 96}


@pytest.mark.parametrize(("verdict", "trusted"), [("wide", True), (TOO_FEW, False), (CONTENDED, False)])
def test_a_disturbed_or_short_timing_of_a_graph_has_no_numbers(verdict: str, trusted: bool) -> None:
    times = GraphTimes("a CPU", verdict, 2, (1.5, 1.4, 1.6), (3.0, 2.9, 3.1), (2.0, 1.9, 2.1))
    assert ("1.5 ms" in times.line("ONNX Runtime")) is trusted
    assert ("2.00 times as fast" in times.line("ONNX Runtime")) is trusted
    assert (verdict in times.line("ONNX Runtime")) is not trusted
    assert times.to_dict()["ratio"] == ((2.0, 1.9, 2.1) if trusted else None)


def test_the_example_takes_the_central_square_of_a_photograph_as_the_distillation_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = Image.effect_noise((90, 60), 50).convert("RGB")
    photo.save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(IMAGES_USAGE.replace("PX", "32").replace("photo.jpg", "photo.png"), names)
    expected = (square(photo, 32).transpose(2, 0, 1)[None] / np.float32(255) - 0.5) / 0.25
    np.testing.assert_allclose(names["images"], expected, rtol=0, atol=1e-6)


def test_maps_that_windows_do_not_tile_are_named(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = replace(SPEC, stages=tuple(replace(s, window=4) if s.window else s for s in SPEC.stages))
    trial = replace(made.study.trials[1], arch_id=spec.arch_id, spec=spec.to_dict())
    new_store(tmp_path, replace(made.study, trials=(made.study.trials[0], trial)))
    (tmp_path / "weights").mkdir()
    save(build(spec), tmp_path / "weights" / f"{spec.arch_id}.safetensors")
    words = ("--format", "torchscript", "--trial", "1", "--img-size", "96")
    assert main([str(tmp_path), *words, "--out", str(tmp_path / "net")]) == 0
    for text in (capsys.readouterr().out, (tmp_path / "net" / "README.md").read_text()):
        assert "stage 3 at 96 px (6 x 6 to 8 x 8 for windows of 4)" in text
        assert "1.8 times the tokens" in text


def test_torchscript_runs_without_this_project(made: Made, net: torch.nn.Module, tmp_path: Path) -> None:
    export(made, tmp_path, "--format", "torchscript", "--no-fuse")
    script = ALONE + 'import torch\nmodel = torch.jit.load("net/model.pt")\nout = dict(zip("ab", model(given["x"])))\n'
    script += "out = {k: v.detach().contiguous() for k, v in out.items()}\n"
    found = elsewhere(script, tmp_path, x=(images(5) - 0.5) / 0.25)
    summary, spatial = features(net, images(5))
    torch.testing.assert_close(found["a"], summary, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["b"], spatial, atol=1e-4, rtol=1e-4)


LAYER = {"expansion": 2.0, "heads": 2}
UNTIMED = GraphTimes("a CPU", TOO_FEW, 0, *((1.0,) * 3,) * 3)
OF_ONE_SIZE = {  # stages that decide by the size of their map, at stride 16
    "shifted windows": StageSpec("swin", 2, 16, window=14, **LAYER),  # one window up to 224 px, which is not shifted
    "padded windows": StageSpec("vit", 1, 16, window=7, grid=4, **LAYER),
    "windows and grids": StageSpec("maxvit", 1, 16, window=7, **LAYER),
    "resized": StageSpec("carrier", 1, 16, window=7, cpb_hidden=8, **LAYER),
    "one window or more": StageSpec("window", 1, 16, window=4, cpb_hidden=8, pre_conv="none", **LAYER),
}
OF_ANY_SIZE = {
    "convolutions": StageSpec("mbconv", 1, 16, 2.0),
    "interpolated biases": StageSpec("bn_attention", 1, 16, key_width=8, grid=4, **LAYER),
    "global layers": StageSpec("vit", 1, 16, positions="rotary", registers=1, **LAYER),
}


@pytest.mark.parametrize("stage", OF_ONE_SIZE | OF_ANY_SIZE)
def test_a_trace_takes_any_size_only_where_no_block_decides_by_it(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_torchscript, "time_graph", lambda *_: UNTIMED)
    torch.manual_seed(0)
    model = build(ArchSpec(((OF_ONE_SIZE | OF_ANY_SIZE)[stage],), stem="patch16")).eval().requires_grad_(False)
    report = to_torchscript.write(ExportSource(None, None, model, {}, 64), tmp_path, Arm())  # type: ignore[arg-type]
    if stage in OF_ONE_SIZE:
        assert report.lines[0].startswith("batch: any; size: 64 x 64 px only")
        assert report.about["size_step_px"] is None
        return
    assert report.lines[0] == "batch: any; size: any size in multiples of 32 px"
    assert report.about["size_step_px"] == 32
    run = torch.jit.load(tmp_path / to_torchscript.FILE)
    with torch.inference_mode():
        for sides in ((32, 32), (96, 256)):
            x = torch.randn(1, 3, *sides)
            torch.testing.assert_close(run(x)[1], model.encode(x).spatial, atol=1e-4, rtol=1e-4)


GRAPHS = ("mr_window conv", "linear_attention", "bn_attention", "swin odd", "maxvit squeezed", "carrier", "vit windows")


@pytest.mark.parametrize("stage", [*GRAPHS, "vit", "vit rotary"])
def test_a_trace_of_our_blocks_follows_device_and_type(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device in the graph would be that of the trace, and products of a map and such a tensor fail on a GPU."""
    monkeypatch.setattr(to_torchscript, "time_graph", lambda *_: UNTIMED)
    torch.manual_seed(0)
    model = build(ArchSpec((STAGES[stage],), stem="patch16")).eval().requires_grad_(False)
    report = to_torchscript.write(ExportSource(None, None, model, {}, 96), tmp_path, Arm())  # type: ignore[arg-type]
    assert report.about["any_device"]
    if stage == "linear_attention":  # its sums are in fp32 whatever the type of the map, which a trace does not keep
        return
    run, x = torch.jit.load(tmp_path / to_torchscript.FILE), torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        narrow = run.to(torch.bfloat16)(x.bfloat16())[1]
        expected = model.encode(x).spatial
    assert narrow.dtype == torch.bfloat16
    assert (narrow - expected).abs().max() < 0.1 * expected.abs().max()


def test_a_graph_that_has_a_device_in_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_torchscript, "time_graph", lambda *_: UNTIMED)
    model = build(ArchSpec((OF_ANY_SIZE["convolutions"],), stem="patch16")).eval().requires_grad_(False)
    model.norm.register_forward_hook(lambda module, inputs, y: y + torch.zeros(1, device=y.device))
    report = to_torchscript.write(ExportSource(None, None, model, {}, 64), tmp_path, Arm(form="unfused"))  # type: ignore[arg-type]
    assert not report.about["any_device"]
    assert any("on a CPU only" in line for line in report.lines)


def test_onnx_of_large_weights_has_them_in_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_onnx, "time_graph", lambda *_: UNTIMED)
    monkeypatch.setattr(to_onnx, "ONE_FILE", 0)
    model = build(ArchSpec((OF_ANY_SIZE["convolutions"],), stem="patch16")).eval().requires_grad_(False)
    report = to_onnx.write(ExportSource(None, None, model, {}, 64), tmp_path, Arm())  # type: ignore[arg-type]
    assert report.lines[0] == "batch: any; size: any size in multiples of 32 px"
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}
    assert (tmp_path / "model.onnx.data").stat().st_size > 4 * 3 * 16 * 16**2  # the stem's


@pytest.mark.slow
def test_onnx_resizes_a_map_to_windows_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_onnx, "time_graph", lambda *_: UNTIMED)
    torch.manual_seed(0)
    model = build(ArchSpec((OF_ONE_SIZE["resized"],), stem="patch16")).eval().requires_grad_(False)
    to_onnx.write(ExportSource(None, None, model, {}, 64), tmp_path, Arm())  # type: ignore[arg-type]
    x = torch.randn(3, 3, 64, 64)  # 4 tokens a side become a window of 7
    with torch.inference_mode():
        torch.testing.assert_close(to_onnx.session(tmp_path / to_onnx.FILE)(x)[1], model.encode(x).spatial)
