"""Costs that are counted without a device and without weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from backbones import build
from nas.distill.heads import HeadDims, TeacherHeads, narrow_heads
from nas.measure.counts import totals
from nas.measure.counts.macs import MacCountingMode
from nas.plan.probe import AssumedDevice, ProbedCosts, count_costs, synthetic_targets
from nas.plan.teacher_costs import (
    PassMacs,
    material_counted,
    pass_macs,
    pass_seconds,
)
from nas.search.config_file import read_options
from nas.search.options import recipe_names, recipe_path
from nas.search.settings import new_config
from nas.study.config import DistillConfig, Group, SearchConfig
from nas.teachers import TEACHERS, specs
from search_space import preset

NAMED = [("eradio_pico", preset("eradio_pico"))]
WIDTHS = {spec.name: spec.widths for spec in TEACHERS.values()}
CLIP, SAM = "vit_huge_patch14_clip_224.laion2b", "samvit_huge_patch16.sa1b@1024/4"


def test_seconds_of_an_assumed_device() -> None:
    device = AssumedDevice(tflops=100, mfu=0.5, measure_s=7)
    config = SearchConfig()
    macs, heads = totals(preset("eradio_pico"), 64).macs, sum(heads_macs(config).values())
    (costs,) = count_costs(config, NAMED, device, WIDTHS)
    assert costs.step_s == pytest.approx(3 * 32 * 2 * (macs + heads) / 50e12)
    assert costs.evaluate_s == pytest.approx(600 * 2 * (macs + heads) / 50e12)
    assert costs.measure_s == 7
    again = replace(config, distill=replace(config.distill, grad_checkpointing=True))
    (costs,) = count_costs(again, NAMED, device, WIDTHS)
    assert costs.step_s == pytest.approx(32 * 2 * (4 * macs + 3 * heads) / 50e12), "heads are not computed again"


def heads_macs(config: SearchConfig) -> dict[str, int]:
    """Count the heads of eradio_pico for each teacher, on targets of the shapes that the cache would have."""
    targets, backbone = synthetic_targets(config, WIDTHS, 0.25, rows=2), build(preset("eradio_pico"))
    counted = {}
    for name, teacher in targets.teachers.items():
        dims = {name: HeadDims(teacher.summary_dim, teacher.spatial_dim)}
        heads = TeacherHeads(backbone.summary_dim, backbone.spatial_dim, dims, config.distill.head_width, config.grid)
        with torch.no_grad(), MacCountingMode() as counter:
            heads(backbone.eval().encode(torch.zeros(1, 3, 64, 64)))
            whole = counter.macs
        counted[name] = int(whole) - totals(preset("eradio_pico"), 64).macs
    return counted


def test_the_heads_of_a_step_are_those_of_its_group() -> None:
    device = AssumedDevice(tflops=1, mfu=0.5, measure_s=7)
    groups = (Group(("lite0",), 64, (64,), rate=3.0), Group(("hed", "xfeat"), 256, (64,)))
    config = SearchConfig()
    config = replace(config, distill=replace(config.distill, groups=groups, head_width=512))
    heads, macs = heads_macs(config), totals(preset("eradio_pico"), 64).macs
    lite0, others = 64 * (macs + heads["lite0"]), 256 * (macs + heads["hed"] + heads["xfeat"])
    (costs,) = count_costs(config, NAMED, device, WIDTHS)
    assert costs.step_s == pytest.approx(3 * 2 * (0.75 * lite0 + 0.25 * others) / 0.5e12)


def test_narrow_heads_are_named_with_their_remedy() -> None:
    """A quarter of 1,536, 768 and 256 channels are 384, 192 and 64: more than 2 x 128 are 384 only."""
    widths = {"giant": (1536, 1536), "base": (768, 768), "sam": (0, 256)}
    config = SearchConfig(distill=DistillConfig(img_size=224))
    warning = narrow_heads(widths, config)
    assert "giant (384);" in warning
    assert warning.endswith("--distill head_width=512")
    assert "base" not in warning
    assert narrow_heads(widths, replace(config, distill=replace(config.distill, head_width=512))) == ""
    assert narrow_heads(WIDTHS, SearchConfig()) == "", "the default suits the built-in teachers"
    for recipe in recipe_names():
        settings = new_config(read_options(recipe_path(recipe)))
        assert narrow_heads({spec.name: spec.widths for spec in specs(settings.teachers)}, settings) == ""


def test_times_of_a_trial() -> None:
    costs = ProbedCosts("a", 1, step_s=0.1, evaluate_s=1.0, last_s=5.0, measure_s=2.0)
    assert costs.times((10, 30)).rung_s == pytest.approx((2.0, 8.0))
    assert costs.times((10, 30), ranks=2).rung_s == pytest.approx((1.5, 7.0))
    assert costs.times((10,)).measure_s == 2.0


def test_teachers_are_counted_without_weights() -> None:
    # timm's own table has 167.40 GMACs for this network, its projection included.
    clip = pass_macs(CLIP)
    assert clip is not None
    assert clip.macs == pytest.approx(167.40e9, rel=0.01)
    assert clip.convolution_macs == 16 * 16 * 14 * 14 * 3 * 1280, "the patches' embedding"
    assert [spec.widths for spec in specs(f"{CLIP},{SAM},lite0")] == [(1024, 1280), (0, 256), (1280, 112)]
    assert pass_macs("lite0") is None


@pytest.mark.parametrize(("bf16", "tf32", "fp32"), [(312, 156, 19.5), (989, 495, 67)], ids=["A100", "H100"])
def test_teachers_in_fp32_multiply_at_the_peaks_of_data_sheets(bf16: float, tf32: float, fp32: float) -> None:
    """What a pass in bf16 takes beyond its products at the peak, it takes in fp32, too."""
    macs, device = 1e12, AssumedDevice(tflops=bf16, mfu=0.3, measure_s=7)
    for counted, peak in ((PassMacs(macs, 0), fp32), (PassMacs(macs, macs), tf32)):
        rest = pass_seconds(counted, device, "bf16") - 2 * macs / (1e12 * bf16)
        assert rest > 0
        assert pass_seconds(counted, device, "fp32") == pytest.approx(rest + 2 * macs / (1e12 * peak), rel=0.06)


def test_targets_of_a_plan_have_the_channels_of_a_cache() -> None:
    """A summary on 14 x 14 cells is whole; on 4 x 4 cells it is cut like the map."""
    widths = {"a": (64, 64), "b": (0, 64)}
    for px, summary in ((224, 64), (64, 16)):
        config = SearchConfig(distill=replace(SearchConfig().distill, img_size=px))
        made = synthetic_targets(config, widths, 0.25, 2)
        assert [(t.summary_dim, t.spatial_dim) for t in made.teachers.values()] == [(summary, 16), (0, 16)]
        assert made.train.summary["a"].shape == (2, summary)


def test_passes_and_bytes() -> None:
    config = SearchConfig(teachers=CLIP, train_images=1000, views=2, val_images=100)
    counted, device = pass_macs(CLIP), AssumedDevice(tflops=100, mfu=0.5, measure_s=7)
    assert counted is not None
    (clip,) = material_counted(replace(config, teacher_precision="bf16"), {}, device).teachers
    assert clip.passes == 2100
    assert clip.seconds == pytest.approx(2100 * counted.macs * 2 / 50e12)
    assert clip.note.endswith("counted; in bf16")
    (slower,) = material_counted(config, {}, device).teachers
    assert slower.seconds == pytest.approx(2100 * pass_seconds(counted, device, "fp32"))
    assert slower.note.endswith("counted; in fp32")
    (uncounted,) = material_counted(config, {}, device=None).teachers
    assert (uncounted.seconds, uncounted.kept_bytes) == (None, clip.kept_bytes)
    assert clip.kept_bytes == 2100 * (1024 + 4 * 4 * 1280) * 0.25


def test_weights_of_a_file_are_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    network, file = "resnet18.a1_in1k", tmp_path / "w.safetensors"
    assert not specs(network)[0].is_here()
    save_file({"a": torch.zeros(1)}, file)
    assert specs(network, {network: file})[0].is_here()
