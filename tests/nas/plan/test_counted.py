"""Costs that are counted without a device and without weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nas.measure.counts import totals
from nas.plan.probe import AssumedDevice, ProbedCosts, count_costs
from nas.plan.teacher_costs import material_counted, pass_macs, weights_here
from nas.study.config import SearchConfig
from nas.teachers import specs
from search_space import preset

CLIP, SAM = "vit_huge_patch14_clip_224.laion2b", "samvit_huge_patch16.sa1b@1024/4"


def test_seconds_of_an_assumed_device() -> None:
    device = AssumedDevice(tflops=100, mfu=0.5, measure_s=7)
    config = SearchConfig()
    macs = totals(preset("eradio_pico"), 64).macs
    (costs,) = count_costs(config, [("eradio_pico", preset("eradio_pico"))], device)
    assert costs.step_s == pytest.approx(3 * 32 * 2 * macs / 50e12)
    assert costs.evaluate_s == pytest.approx(600 * 2 * macs / 50e12)
    assert costs.measure_s == 7
    again = replace(config, distill=replace(config.distill, grad_checkpointing=True))
    assert count_costs(again, [("p", preset("eradio_pico"))], device)[0].step_s == pytest.approx(costs.step_s * 4 / 3)


def test_times_of_a_trial() -> None:
    costs = ProbedCosts("a", 1, 1, step_s=0.1, evaluate_s=1.0, last_s=5.0, measure_s=2.0)
    assert costs.times((10, 30)).rung_s == pytest.approx((2.0, 8.0))
    assert costs.times((10, 30), ranks=2).rung_s == pytest.approx((1.5, 7.0))
    assert costs.times((10,)).measure_s == 2.0


def test_teachers_are_counted_without_weights() -> None:
    # timm's own table has 167.40 GMACs for this network, its projection included.
    assert pass_macs(CLIP) == pytest.approx(167.40e9, rel=0.01)
    assert [spec.widths for spec in specs(f"{CLIP},{SAM},lite0")] == [(1024, 1280), (0, 256), (1280, 112)]
    assert pass_macs("lite0") is None


def test_the_images_of_a_mosaic_share_its_cost() -> None:
    alone = pass_macs("samvit_base_patch16.sa1b@1024")
    shared = pass_macs("samvit_base_patch16.sa1b@1024/4")
    assert alone is not None
    assert shared == alone / 16


def test_passes_and_bytes() -> None:
    config = SearchConfig(teachers=CLIP, train_images=1000, views=2, val_images=100)
    (clip,) = material_counted(config, {}, seconds_per_mac=1e-12).teachers
    assert clip.passes == 2100
    assert clip.seconds == pytest.approx(2100 * pass_macs(CLIP) * 1e-12)
    assert clip.kept_bytes == 2100 * (1024 + 4 * 4 * 1280) * 0.25


def test_weights_of_a_file_are_here(tmp_path: Path) -> None:
    assert weights_here(SAM, {"samvit_huge_patch16.sa1b": tmp_path / "w.safetensors"})
