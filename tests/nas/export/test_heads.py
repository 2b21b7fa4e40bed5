"""Compare the explained variance of exported heads with that in training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import onnxruntime
import pytest
import torch
from torch import Tensor

from backbones import build, build_network, save
from nas.analysis.run_files import TrainedWeights
from nas.cache.targets import TeacherTargets
from nas.distill.adaptor import GRID_PX
from nas.distill.evaluation.explained_variance import explained_variance
from nas.distill.folded_heads import describe, fold, load_heads, save_heads
from nas.distill.heads import HeadDims, Student, TeacherHeads
from nas.distill.trainer import Distiller
from nas.export import to_onnx, to_torchscript
from nas.export.graph import DeployedModel, GraphTimes, outputs
from nas.export.radio import BackboneNasConfig, BackboneNasModel
from nas.export.source import ExportSource, open_source
from nas.measure.runtime_spec import Arm
from nas.study.config import DistillConfig
from nas.study.timing_doubts import TOO_FEW
from search_space import ArchSpec, StageSpec, TimmSpec
from tests.nas.analysis.builders import small_study
from tests.nas.distill.targets_builder import standardizer, targets
from tests.nas.export.builders import SPEC

UNTIMED = GraphTimes("a CPU", TOO_FEW, 0, *((1.0,) * 3,) * 3)


def trained(folder: Path, neck: str, like: ArchSpec = SPEC) -> tuple[ExportSource, dict[str, dict[str, float]]]:
    """Return a model from its files, with heads, and its explained variance in training."""
    spec = replace(like, neck=neck, neck_dim=None if neck == "none" else 48)
    torch.manual_seed(0)
    distiller = Distiller(
        build(spec), targets(folder), DistillConfig(img_size=32, batch_size=16, warmup_steps=2), seed=0
    )
    distiller.train_until(20)
    net = distiller.averaged.backbone
    checksum = save(net, folder / "x.safetensors")
    heads = fold(distiller.averaged.heads, targets(folder).teachers, net.spatial_stride)
    save_heads(heads, folder / "x.heads.safetensors", checksum)
    trial = replace(small_study().trials[1], arch_id=spec.arch_id, spec=spec.to_dict())
    opened = open_source(trial, TrainedWeights(folder / "x.safetensors", trial.rungs[-1], 0, "a test"), ["all"], 32)
    return opened, explained_variance(distiller.averaged, targets(folder).val, "cpu")


class AsStudent:
    def __init__(self, run) -> None:  # type: ignore[no-untyped-def]
        self.run = run

    def predict_targets(self, images: Tensor) -> dict[str, dict[str, Tensor]]:
        _, _, summary, spatial = self.run(images.contiguous())
        return {"colour": {"summary": summary, "spatial": spatial}}


@pytest.mark.parametrize(("neck", "stride"), [("stage1", 4), ("stage2", 8), ("stage3", 16), ("none", 32)])
def test_exported_heads_explain_as_much_as_in_training(neck: str, stride: int, tmp_path: Path) -> None:
    given, wanted = trained(tmp_path, neck)
    assert given.model.spatial_stride == stride
    save_heads(given.adaptors, tmp_path / "exported.safetensors", "a model")
    again = replace(given, adaptors=load_heads(tmp_path / "exported.safetensors"))
    for one in (given, again):
        found = explained_variance(AsStudent(DeployedModel(one)), targets(tmp_path).val, "cpu")
        assert found["colour"] == pytest.approx(wanted["colour"], abs=1e-4)
    images = torch.randn(1, 3, 64, 96)
    _, mapped = again.adaptors["colour"](*again.model.encode(images), images)
    assert mapped.shape[2:] == (4, 6)


COARSE = ArchSpec((StageSpec("repdw", 1, 32, 1.0),) * 3, stem="conv16", downsampling="pool")
NARROW = StageSpec("bn_attention", 1, 32, 1.0, heads=2, grid=2, key_width=8)  # its grid is the first map at 32 px
OFFSETS = ArchSpec((NARROW, NARROW), stem="patch16", downsampling="attention")


def test_heads_of_a_map_at_stride_64_cover_the_image_and_no_more(tmp_path: Path) -> None:
    given, wanted = trained(tmp_path, "none", COARSE)
    assert given.model.spatial_stride == 64
    deployed = DeployedModel(given)
    assert explained_variance(AsStudent(deployed), targets(tmp_path).val, "cpu")["colour"] == pytest.approx(
        wanted["colour"], abs=1e-4
    )
    assert [deployed(torch.randn(1, 3, 96, 224))[i].shape[2:] for i in (1, 3)] == [(2, 4), (6, 14)]
    about = {name: describe(adaptor) for name, adaptor in given.adaptors.items()}
    opened = BackboneNasModel(BackboneNasConfig(spec=COARSE.to_dict(), adaptors=about, adaptor_names=["colour"]))
    maps = opened.eval()(torch.rand(1, 3, 96, 224), feature_fmt="NCHW")
    assert [maps[name].features.shape[2:] for name in ("backbone", "colour")] == [(2, 4), (6, 14)]


@pytest.mark.slow
@pytest.mark.parametrize("neck", ["none", "stage2", "coarse", "offsets"])
def test_graphs_keep_the_grid_at_any_size(neck: str, tmp_path: Path) -> None:
    # Without windows, whose number a trace fixes.
    stages = (*SPEC.stages[:2], StageSpec("convnext", 1, 64, 1.0), SPEC.stages[3])
    models = {"coarse": COARSE, "offsets": OFFSETS}
    like, neck = (models[neck], "none") if neck in models else (replace(SPEC, stages=stages), neck)
    given, _ = trained(tmp_path, neck, like)
    assert outputs(given)[-1] == "colour.spatial"
    traced = to_torchscript.write(given, tmp_path, Arm())
    graph = to_onnx.write(given, tmp_path, Arm())
    images = torch.randn(2, 3, 64, 96)
    found = [
        torch.jit.load(tmp_path / "model.pt")(images)[-1],
        torch.from_numpy(
            onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"images": images.numpy()})[-1]
        ),
    ]
    wanted = DeployedModel(given)(images)[-1]
    assert wanted.shape == (2, 8, 4, 6)
    for one in found:
        torch.testing.assert_close(one, wanted, atol=1e-3, rtol=1e-3)
    assert traced.about["size_step_px"] == graph.about["size_step_px"] == 32


def untrained(name: str, px: int) -> tuple[Student, ExportSource]:
    """Return a student of timm with heads of random weights, and what is exported of it."""
    torch.manual_seed(0)
    model = build_network(TimmSpec(name)).eval().requires_grad_(False)
    teachers = {"colour": TeacherTargets("a" * 16, standardizer(12, 4, 0), standardizer(10, 8, 1))}
    heads = TeacherHeads(model.summary_dim, model.spatial_dim, {"colour": HeadDims(4, 8)}, 16, px // GRID_PX)
    student = Student(model, heads).eval().requires_grad_(False)
    adaptors = fold(heads, teachers, student.stride_at(px))
    return student, ExportSource(cast(Any, None), cast(Any, None), model, adaptors, px)


@pytest.mark.parametrize(("name", "stride"), [("mobilevitv2_050", None), ("convnext_atto", 32)])
def test_heads_of_one_size_answer_as_the_student_at_others(name: str, stride: int | None) -> None:
    """The map of mobilevitv2_050 has its stride at multiples of 64 px alone, where its tokens fit."""
    student, source = untrained(name, 128)
    adaptor = source.adaptors["colour"]
    assert adaptor.stride == stride
    for px in (96, 128, 160, 224):
        student.heads.grid = px // GRID_PX
        images = torch.randn(1, 3, px, px)
        with torch.inference_mode():
            found = adaptor(*source.model.encode(images), images)[1]
            wanted = student.predict_targets(images)["colour"]["spatial"]
        found = torch.from_numpy(standardizer(10, 8, 1).apply(found.movedim(1, -1).double().numpy())).movedim(-1, 1)
        torch.testing.assert_close(found.float(), wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "px", "stride", "side"),
    [
        ("eva02_tiny_patch14_224", 224, 14, 16),  # to 14 cells: a larger map
        ("mobilevitv2_050", 96, None, 4),  # to 6 cells: a smaller map, of tokens that the network resizes
        ("mobilevitv2_050", 128, None, 4),  # to 8 cells: a map that has the declared stride at this size by chance
        ("inception_v3", 128, None, 2),  # to 8 cells: convolutions without padding
    ],
)
def test_graphs_bring_any_map_to_the_grid_of_the_training(
    name: str, px: int, stride: int | None, side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_onnx, "time_graph", lambda *_: UNTIMED)
    monkeypatch.setattr(to_torchscript, "time_graph", lambda *_: UNTIMED)
    student, source = untrained(name, px)
    save_heads(source.adaptors, tmp_path / "heads.safetensors", "a model")
    source = replace(source, adaptors=load_heads(tmp_path / "heads.safetensors"))
    assert source.adaptors["colour"].stride == stride
    assert to_onnx.write(source, tmp_path, Arm()).about["size_step_px"] is None
    to_torchscript.write(source, tmp_path, Arm())
    runs = [to_onnx.session(tmp_path / to_onnx.FILE), torch.jit.load(tmp_path / to_torchscript.FILE)]
    for batch in (1, 3):
        images = torch.randn(batch, 3, px, px)
        with torch.inference_mode():
            assert source.model.encode(images).spatial.shape[2:] == (side, side)
            wanted = student.predict_targets(images)["colour"]
            for run in (DeployedModel(source), *runs):
                summary, spatial = run(images)[2:]
                assert spatial.shape == (batch, 10, px // GRID_PX, px // GRID_PX)
                for head, found in (("summary", summary), ("spatial", spatial)):
                    fitted = standardizer(12, 4, 0) if head == "summary" else standardizer(10, 8, 1)
                    targets = torch.from_numpy(fitted.apply(found.movedim(1, -1).double().numpy())).movedim(-1, 1)
                    torch.testing.assert_close(targets.float(), wanted[head], atol=1e-3, rtol=1e-3)
