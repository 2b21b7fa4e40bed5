"""The cost of windows that don't divide a map, by hand."""

from dataclasses import replace

import pytest
import torch

from backbones import build
from nas.measure.counts import count
from nas.profile.sweeps import _tokens, window_costs
from search_space import BLOCK_FIELDS, PRESETS, ArchSpec, StageSpec


def costs(name, resolution):
    with torch.device("meta"):
        model = build(PRESETS[name])
    macs = count(model, resolution).module_macs
    stage_macs = {i: macs[f"stages.{i - 1}"] for i in range(1, 5)}
    return window_costs(model, resolution, stage_macs), stage_macs


def test_windows_that_divide_cost_nothing():
    assert costs("eradio_xt", 224)[0] == []  # maps of 14 and 7, windows of 7
    assert costs("eradio_xt", 448)[0] == []


def test_a_map_of_16_is_resized_to_28_by_hand():
    (third, fourth), macs = costs("eradio_xt", 256)
    # Stage 3: windows of 7 on maps at ratios 2 and 1, so the map of 16 must become a multiple of 14: 28.
    assert (third.stage, third.map_side, third.resized_side, third.windows) == (3, 16, 28, (7, 7))
    assert third.extra_tokens == pytest.approx(28**2 / 16**2 - 1)
    assert third.extra_macs == round(macs[3] * (1 - 16**2 / 28**2))
    assert (fourth.stage, fourth.map_side, fourth.resized_side, fourth.windows) == (4, 8, 14, (7,))
    assert fourth.extra_tokens == pytest.approx(14**2 / 8**2 - 1)


def test_tokens_that_resizing_back_drops_cost_nothing():
    """At 32 px stage 4's map of 1 becomes 7, a whole factor: the last block computes only what is kept."""
    (_, fourth), macs = costs("eradio_xt", 32)
    full = costs("eradio_xt", 224)[1]
    assert (fourth.map_side, fourth.resized_side) == (1, 7)
    assert fourth.extra_macs == macs[4] - round(full[4] / 49)  # 49 tokens of a map of 7 at 224 px; 1 is needed here
    assert macs[4] < full[4]  # of the last block


def test_extra_macs_are_what_a_fitting_window_saves():
    """At 256 px with windows of 8 (change_resolution's own choice) the same stage runs on its map of 16."""
    (third, _), macs = costs("eradio_xt", 256)
    with torch.device("meta"):
        fitting = build(PRESETS["eradio_xt"])
    fitting.stages[2].step = 1  # the same windows, but without the resizing around: blocks pad 16 to 21 and 8 to 14
    for block in fitting.stages[2].blocks:
        block.window = 4  # 16 and 8 are multiples of 4: nothing is padded
        block.layer.attention.position = None  # a bias of 49 x 49 fits no window of 4
    per_token = count(fitting, 256).module_macs["stages.2"]
    # Attention itself goes by the window's tokens (49 against 16), all else is per token: equal to a few percent.
    assert macs[3] - third.extra_macs == pytest.approx(per_token, rel=0.06)


def test_windows_of_a_vit_shrink_before_they_pad():
    stage = StageSpec("vit", 3, 32, expansion=2, heads=2, grid=16, window=7, global_every=3, registers=1)
    with torch.device("meta"):
        model = build(ArchSpec((stage,), stem="patch16"))
    macs = count(model, 256).module_macs["stages.0"]
    # 16 tokens a side are three windows of 6 with two tokens of padding; the third layer has none.
    (cost,) = window_costs(model, 256, {1: macs})
    assert (cost.map_side, cost.resized_side, cost.windows) == (16, 16, (7,))
    assert cost.extra_tokens == pytest.approx((2 * 18**2 + 16**2) / (3 * 16**2) - 1)
    assert cost.extra_macs == macs - round(macs / (1 + cost.extra_tokens))
    assert window_costs(model, 224, {1: 1}) == []  # two windows of 7
    assert window_costs(model, 192, {1: 1}) == []  # two windows of 6


def test_global_layers_of_any_block_run_on_the_map(monkeypatch):
    monkeypatch.setitem(BLOCK_FIELDS, "own", BLOCK_FIELDS["vit"])
    vit = StageSpec("vit", 3, 32, expansion=2, heads=2, grid=16, window=7, global_every=3)
    assert _tokens(replace(vit, block="own"), 16, 16) == _tokens(vit, 16, 16)
    assert replace(vit, block="own", window=None, global_every=None).window is None
