"""Read the model card of an export, and the error lines of refused ones."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from backbones import WeightsError, build_network
from nas.cli import FAILED
from nas.distill.folded_heads import load_heads, save_heads
from nas.export.__main__ import main
from nas.export.source import ExportSource, output_shapes
from nas.study.records import StudyRecord
from search_space import ArchSpec, NetworkSpec, TimmSpec
from tests.backbones.builders import STAGES
from tests.nas.analysis.builders import new_store
from tests.nas.export.builders import SPEC, TIMM, Made, refusal

TOKEN = ArchSpec((STAGES["vit rotary"],), stem="patch16", summary="token")


def copy_of(made: Made, folder: Path, study: StudyRecord | None = None) -> Path:
    """Return a copy of the run, for tests that damage it."""
    run = folder / "run"
    shutil.copytree(made.run, run, ignore=shutil.ignore_patterns("exports"))
    if study is not None:
        (run / "study.db").unlink()
        new_store(run, study)
    return run


def test_the_card_has_the_measurements(made: Made, tmp_path: Path) -> None:
    hostile = "a|b`<script>\n# c"
    secret = "nas.search --data https://me:word@host/x?sig=1"
    info = replace(made.study.info, name=hostile, command=secret, data={**made.study.info.data, "name": hostile})
    run = copy_of(made, tmp_path, StudyRecord(info, made.study.trials))
    assert main([str(run), *TIMM, "--heads", "all"]) == 0
    out = run / "exports" / f"{SPEC.arch_id}-timm"
    text, trial = (out / "README.md").read_text(), made.study.trials[1]
    m, rung = trial.measurement, trial.rungs[-1]
    assert m is not None
    for words in (
        f"| exported weights: the search's last rung | 4 | {rung.score:.4f} | ",
        f"| throughput relative to `{m.reference}`, batch {m.batch}, {m.resolution} px | {m.ratio:.3f} | ",
        f"| {m.ratio:.3f} | {m.ratio_low:.3f} to {m.ratio_high:.3f} |",
        f"| `lite0` | `spatial` | {rung.teachers['lite0']['spatial']:.4f} |",
        f"| parameters | {trial.params:,} |",
        f"`report.html#{SPEC.arch_id}`",
        "- teacher `xfeat`: Apache-2.0",
        "license: other",
        "heads in this folder: `lite0`, `xfeat`",
        f"local-dir:{out.name}",
        "search: `nas.search --data https://host/x`",
        f"export: `backbone-nas export .../{run.name} --format timm",
        "`a/b'<script> # c`",
    ):
        assert words in text, words
    assert {p.name for p in out.iterdir()} == {
        *("README.md", "export.json", "spec.json", "preprocessor_config.json"),
        *("config.json", "model.safetensors", "heads.safetensors"),
    }
    about = json.loads((out / "export.json").read_text())
    assert about["weights"]["result"] == rung.to_dict()
    assert sorted(about["files"]) == sorted(p.name for p in out.iterdir())
    assert str(tmp_path) not in text + (out / "export.json").read_text()


def test_an_export_says_what_a_language_model_must_know_of_its_tower(made: Made, tmp_path: Path) -> None:
    assert main([str(made.run), *TIMM, "--out", str(tmp_path / "net")]) == 0
    about = json.loads((tmp_path / "net" / "export.json").read_text())
    assert about["trained_px"] == 64
    assert about["outputs"] == {
        **{"image_px": 64, "summary_width": 96, "summary": "the mean of the last stage's map"},
        **{"map_width": 48, "map_stride": 16, "map_sides": [4, 4], "tokens": 16},
    }
    card = (tmp_path / "net" / "README.md").read_text()
    assert "images `builtin`: OpenMoji glyphs (CC-BY-SA-4.0)" in card.partition("## License")[2]


@pytest.mark.parametrize(
    ("spec", "stride", "sides", "kind"),
    [
        (TOKEN, 16, (6, 6), "the summary token of the last stage"),
        (TimmSpec("resnet18"), 32, (3, 3), "timm's pooled features"),
    ],
)
def test_the_summary_is_named(spec: NetworkSpec, stride: int, sides: tuple[int, int], kind: str) -> None:
    model = build_network(spec).eval()
    found = output_shapes(ExportSource(None, None, model, {}, 96))  # type: ignore[arg-type]
    assert (found.map_stride, found.map_sides, found.tokens, found.summary) == (
        stride,
        sides,
        sides[0] * sides[1],
        kind,
    )
    assert (found.summary_width, found.map_width) == (model.summary_dim, model.spatial_dim)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"samples": 30, "verdict": "contended"}, "30 samples, contended"),
        ({"samples": 12, "verdict": "wide", "ratio_low": 1e-6, "ratio_high": 1.7e6}, "12 samples, scattered"),
    ],
)
def test_a_disturbed_or_short_timing_has_no_ratio_and_no_interval(
    made: Made, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    trials = list(made.study.trials)
    m = trials[1].measurement
    assert m is not None
    trials[1] = replace(trials[1], measurement=replace(m, **changes))
    run = copy_of(made, tmp_path, StudyRecord(made.study.info, tuple(trials)))
    assert main([str(run), *TIMM]) == 0
    text = (run / "exports" / f"{SPEC.arch_id}-timm" / "README.md").read_text()
    batch = f"batch {m.batch}, {m.resolution} px"
    assert f"| throughput, images/s, {batch} | {m.throughput_img_s:,.1f} | interval not usable: {why} |" in text
    assert f"| latency, ms, batch 1, {m.resolution} px | {m.latency_ms:.3g} | interval not usable: {why} |" in text
    assert "throughput relative to" not in text
    assert f"{m.throughput_low_img_s:.1f} to" not in text


def test_a_missing_library_is_one_line_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as where it is not installed
    output = refusal([str(tmp_path), "--format", "onnx"], capsys)  # the folder has no study
    assert "onnxscript is not installed; pip install -e '.[onnx]'" in output


def test_names_of_folders_do_not_end_the_string(made: Made, tmp_path: Path) -> None:
    name = 'a"b)\n```\n'
    assert main([str(made.run), *TIMM, "--out", str(tmp_path / name)]) == 0
    source = (tmp_path / name / "README.md").read_text().split("```python\n")[1].split("\n```")[0]
    words = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    assert f"local-dir:{name}" in words


def test_a_trial_that_says_another_architectures_id_is_refused(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = list(made.study.trials)
    trials[1] = replace(trials[1], arch_id="../../elsewhere")
    run = copy_of(made, tmp_path, StudyRecord(made.study.info, tuple(trials)))
    assert "its arch_id is not its architecture's" in refusal([str(run), "--trial", "1", *TIMM], capsys)


def test_altered_weights_are_refused(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copy_of(made, tmp_path)
    path = run / "weights" / f"{SPEC.arch_id}.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    state = load_file(path)
    state["norm.weight"][0] += 1
    save_file(state, path, metadata)
    assert "the file was altered" in refusal([str(run), *TIMM], capsys)
    path.write_bytes(path.read_bytes()[:1000])
    assert "truncated or not a safetensors file" in refusal([str(run), *TIMM], capsys)
    assert not (run / "exports").exists() or not list((run / "exports").iterdir())


@pytest.mark.parametrize("how", ["zeros", "another model's"])
def test_heads_that_are_damaged_or_anothers_are_refused_by_name(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    run = copy_of(made, tmp_path)
    path = run / "weights" / f"{SPEC.arch_id}.heads.safetensors"
    if how == "zeros":
        start = 8 + int.from_bytes(path.read_bytes()[:8], "little")
        path.write_bytes(path.read_bytes()[:start] + bytes(path.stat().st_size - start))
    else:
        save_heads(load_heads(path), path, "of another training of this architecture")
    output = refusal([str(run), *TIMM, "--heads", "all"], capsys)
    assert str(path) in output
    assert not (run / "exports").exists() or not list((run / "exports").iterdir())


def test_an_altered_export_is_refused_by_timm_and_nothing_is_unpickled(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main([str(made.run), *TIMM, "--out", str(out)]) == 0
    path = out / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8] + b"altered!")
    with pytest.raises(WeightsError, match="altered"):
        timm.create_model(f"local-dir:{out}", pretrained=True)
    path.rename(out / "pytorch_model.bin")  # timm would unpickle it
    with pytest.raises(WeightsError, match="no such file"):
        timm.create_model(f"local-dir:{out}", pretrained=True)


def test_missing_heads_are_refused(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = refusal([str(made.run), *TIMM, "--heads", "sam", "--out", str(tmp_path / "out")], capsys)
    assert "--heads: the study has no teacher 'sam'; choose from lite0, xfeat, all" in output
    run = copy_of(made, tmp_path)
    (run / "weights" / f"{SPEC.arch_id}.heads.safetensors").unlink()
    assert "heads.safetensors: no such file" in refusal([str(run), *TIMM, "--heads", "all"], capsys)
    assert main([str(run), *TIMM]) == 0  # they are not needed without being asked for


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--trial", "2", *TIMM], "trial 2 (ID) was early-stopped"),
        (["--trial", "3", *TIMM], "its weight file is missing"),
        (["--trial", "99", *TIMM], "the study has no trial '99'"),
        (["--format", "coreml"], "--format: 'coreml'"),
        ([*TIMM, "--fuse"], "--fuse: the format timm has trainable weights"),
        ([*TIMM, "--precision", "fp16"], "--precision: only for onnx; the format timm is written in fp32"),
        (["--format", "onnx", "--img-size", "100"], "--img-size: 100: must be a multiple of 32"),
    ],
)
def test_bad_input_is_one_line(words: list[str], error: str, made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    output = refusal([str(made.run), *words], capsys)
    assert error.replace("ID", made.study.trials[2].arch_id) in output


def test_a_graph_that_computes_something_else_is_refused(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = torch.jit.load
    monkeypatch.setattr(torch.jit, "load", lambda path, **rest: _shifted(opened(path, **rest)))
    output = refusal([str(made.run), "--format", "torchscript", "--out", str(tmp_path / "out")], capsys, FAILED)
    assert "differs from PyTorch by 0.001" in output
    assert not list(tmp_path.iterdir())


def _shifted(model):  # type: ignore[no-untyped-def]
    return lambda images: [output + 1e-3 * output.abs().max() for output in model(images)]
