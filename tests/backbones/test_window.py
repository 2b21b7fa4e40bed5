"""Windows, resizing and position bias, against values worked out by hand."""

import pytest
import torch
from torch import nn

from backbones.layers.eradio_attention import Attention, EradioLayer
from backbones.layers.mlp import Mlp
from backbones.layers.resample import pool_resample
from backbones.layers.stage import Stage
from backbones.layers.window import WindowBlock, join_windows, split_windows


@pytest.mark.parametrize("size", [(4, 4), (8, 4), (4, 12)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_join_undoes_split(size, layout):
    x = torch.randn(2, 3, *size).contiguous(memory_format=layout)
    assert torch.equal(join_windows(split_windows(x, 4), 4, *size), x)


def test_windows_are_row_major_in_and_out():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert split_windows(x, 2).squeeze(-1).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def silent_layer():
    """A layer whose attention and MLP are zero: tokens pass unchanged."""
    layer = EradioLayer(4, Attention(4, 1, 4, 4), Mlp(4, 8))
    nn.init.zeros_(layer.attention.proj.weight)
    nn.init.zeros_(layer.mlp.fc2.weight)
    return layer


def test_without_pre_conv_the_map_is_doubled_before_the_mean_with_the_input():
    x = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(WindowBlock(silent_layer(), 4)(x), 1.5 * x)


def test_a_window_that_does_not_divide_is_padded_and_cropped():
    x = torch.randn(1, 4, 7, 5)
    torch.testing.assert_close(WindowBlock(silent_layer(), 4)(x), 1.5 * x)


BLOCKS = {
    "plain": (4, {}),
    "biased": (4, {"qkv_bias": True}),
    "one window": (8, {}),
    "a window that 2 does not divide": (3, {}),
    "subsampled": (4, {"ratio": 2}),
}


@pytest.mark.parametrize("every", [(1, 1), (2, 2), (2, 1), (1, 4)])
@pytest.mark.parametrize("kind", BLOCKS)
def test_what_is_kept_of_a_block_is_the_same_as_if_all_were(kind, every):
    torch.manual_seed(0)
    window, options = BLOCKS[kind]
    layer = EradioLayer(8, Attention(8, 2, window, 4, options.get("qkv_bias", False)), Mlp(8, 16))
    ratio = options.get("ratio")
    block = WindowBlock(layer, window, resample=pool_resample(8, ratio) if ratio else None).eval()
    for size in ((8, 8), (16, 8), (9, 13)):
        x = torch.randn(2, 8, *size)
        with torch.no_grad():
            torch.testing.assert_close(block(x, every), block(x)[:, :, :: every[0], :: every[1]], atol=1e-6, rtol=1e-5)


def test_a_stretched_stage_is_stretching_and_shrinking_around_its_blocks():
    torch.manual_seed(0)
    layers = [EradioLayer(8, Attention(8, 2, 4, 4), Mlp(8, 16)) for _ in range(2)]
    stage = Stage([WindowBlock(layer, 4) for layer in layers], step=8).eval()
    for size in ((4, 4), (2, 8), (1, 4), (3, 5), (8, 8)):
        x = torch.randn(2, 8, *size)
        wanted = nn.functional.interpolate(x, size=[-(-side // 8) * 8 for side in size])
        for block in stage.blocks:
            wanted = block(wanted)
        torch.testing.assert_close(stage(x), nn.functional.interpolate(wanted, size=size), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ratio", [1, 2])
def test_stochastic_depth_drops_a_branch_in_all_windows_of_an_image(ratio):
    torch.manual_seed(0)
    layer = EradioLayer(4, Attention(4, 1, 2, 4), Mlp(4, 8), drop_path=0.5)
    block = WindowBlock(layer, 2, resample=pool_resample(4, ratio) if ratio > 1 else None).train()
    for branch in (layer.attention, layer.mlp):
        branch.register_forward_hook(lambda module, inputs, output: torch.ones_like(output))
    added = []
    layer.register_forward_hook(lambda module, inputs, output: added.append(output - inputs[0]))
    block(torch.randn(32, 4, 8, 8))
    by_image = added[0].unflatten(0, (32, -1)).flatten(1)  # 2 where one branch was kept, 4 where both were
    torch.testing.assert_close(by_image, by_image[:, :1].expand_as(by_image), atol=1e-5, rtol=0)
    assert {round(value) for value in by_image[:, 0].tolist()} == {0, 2, 4}
