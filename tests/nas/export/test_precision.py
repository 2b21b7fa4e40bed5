"""Export graphs in half precision: the graph that a measurement runs, with the file's types, and its check."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from backbones import Backbone, build
from nas.export import ExportFailed, to_onnx
from nas.export.__main__ import main
from nas.export.source import ExportSource
from nas.measure.prepare import apply_arm
from nas.measure.runtime_spec import Arm
from nas.measure.runtimes.onnx_graph import exported
from search_space import ArchSpec, StageSpec
from tests.backbones.builders import STAGES
from tests.nas.export.builders import SPEC, Made
from tests.nas.measure.test_tensorrt import Library

FLOAT, HALF, BF16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16
KINDS = {"fp32": FLOAT, "fp16": HALF, "bf16": BF16}
SMALL = ArchSpec((StageSpec("convnext", 1, 16, 1.0),), stem="patch16")
LINEAR = ArchSpec((STAGES["linear_attention"],), stem="patch16")


def source_of(spec: ArchSpec, px: int = 64) -> ExportSource:
    torch.manual_seed(0)
    model = build(spec).eval().requires_grad_(False)
    return ExportSource(None, None, model, {}, px)  # type: ignore[arg-type]


def types_of(path: Path) -> list[tuple[str, list[int | None]]]:
    """Return the operators of a graph in their order, with the types of their results; None where one is unknown."""
    graph = onnx.load(path).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    return [(node.op_type, [kinds.get(name) for name in node.output]) for node in graph.node]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_graph_has_the_precision_and_is_checked_against_fp32(precision: str, made: Made, tmp_path: Path) -> None:
    out = tmp_path / "net"
    words = [str(made.run), "--format", "onnx", "--heads", "lite0", "--precision", precision, "--out", str(out)]
    assert main(words) == 0
    graph = onnx.load(out / "model.onnx").graph
    values = (*graph.input, *graph.output)
    assert [value.type.tensor_type.elem_type for value in values] == [KINDS[precision]] * 5
    onnx.checker.check_model(out / "model.onnx", full_check=True)  # convolutions in bf16 need opset 22
    checks = json.loads((out / "export.json").read_text())["checks"]
    assert checks["precision"] == precision
    assert 1e-5 < checks["error"] < {"fp16": 1e-2, "bf16": 5e-2}[precision], "rounding is seen, and small"
    assert checks["times"] is None, "a CPU's time in half precision says nothing"
    card = (out / "README.md").read_text()
    assert f"input, weights and outputs are {precision}" in card
    assert "STRONGLY_TYPED" in card


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "precision"),
    [(SPEC, "fp16"), (LINEAR, "fp16"), (LINEAR, "bf16"), (SPEC, "fp32")],
    ids=["windows fp16", "linear attention fp16", "linear attention bf16", "windows fp32"],
)
def test_the_graph_is_the_one_that_is_measured(
    spec: ArchSpec, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a fixed size, for free sides are checked in the graph."""
    monkeypatch.setattr(to_onnx, "time_graph", lambda *_: to_onnx.ONE_FILE)
    monkeypatch.setattr(to_onnx, "_check_report", lambda *_: ((), "", None))
    monkeypatch.setattr(to_onnx, "size_step", lambda model: 96)
    source, arm = source_of(spec), Arm(precision=precision, layout="nchw")
    to_onnx.write(source, tmp_path, arm)
    model = apply_arm(source.model, arm, torch.device("cpu"))
    with exported("tensorrt", model, torch.randn(2, 3, 64, 64, dtype=arm.dtype)) as path:
        measured = types_of(path)
    written = types_of(tmp_path / "model.onnx")
    compute = ("Conv", "MatMul", "Gemm", "Softmax", "LayerNormalization", "Relu", "Cast", "Add", "Div")
    assert [each for each in written if each[0] in compute] == [each for each in measured if each[0] in compute]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_sums_of_linear_attention_stay_in_fp32(precision: str, tmp_path: Path) -> None:
    to_onnx.write(source_of(LINEAR), tmp_path, Arm(precision=precision))
    products = [kinds for name, kinds in types_of(tmp_path / "model.onnx") if name == "MatMul"]
    assert products
    assert all(kinds == [FLOAT] for kinds in products)


class Overflowing(nn.Module):
    """A stem whose map exceeds 65,504, the largest number of fp16; the next operator would bring it back."""

    def __init__(self, stem: nn.Module) -> None:
        super().__init__()
        self.stem = stem

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (self.stem(images) * 1e6) * 1e-6


def test_a_value_that_overflows_in_fp16_is_found_on_a_cpu_that_computes_in_fp32(tmp_path: Path) -> None:
    source = source_of(SMALL, px=32)
    to_onnx.write(source, tmp_path, Arm(precision="fp16"))
    assert {kind for _, kinds in types_of(tmp_path / "model.onnx") for kind in kinds} & {FLOAT, HALF, BF16} == {HALF}
    assert isinstance(source.model, Backbone)
    source.model.stem = Overflowing(source.model.stem)
    with pytest.raises(ExportFailed, match="the ONNX graph in fp16 differs from fp32 PyTorch"):
        to_onnx.write(source, tmp_path, Arm(precision="fp16"))


@pytest.mark.slow
def test_a_value_that_overflows_in_fp16_does_not_in_bf16(tmp_path: Path) -> None:
    source = source_of(SMALL, px=32)
    assert isinstance(source.model, Backbone)
    source.model.stem = Overflowing(source.model.stem)
    to_onnx.write(source, tmp_path, Arm(precision="bf16"))


def test_the_cards_example_builds_a_strongly_typed_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = to_onnx.write(source_of(SMALL), tmp_path, Arm(precision="fp16"))
    library = Library()
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    exec(report.usage.replace("FOLDER", str(tmp_path)).replace("PX", "64"), {})
    assert library.flags == 1 << library.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert library.profiles == [{"images": ((1, 3, 64, 64), (8, 3, 64, 64), (32, 3, 64, 64))}]
    assert (tmp_path / "model.plan").stat().st_size > 0


def test_the_page_has_the_cards_example() -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "vlm_vision_tower.md").read_text()
    assert to_onnx.TENSORRT_USAGE.replace("FOLDER", "tower-onnx").replace("PX", "224") in page
