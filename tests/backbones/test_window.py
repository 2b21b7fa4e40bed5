"""Windows, resizing and position bias, against values worked out by hand."""

import math

import pytest
import torch
from torch import nn

from backbones.layers.attention import Attention, PositionBias, TransformerLayer, log_offsets, offset_index
from backbones.layers.mlp import Mlp
from backbones.layers.resample import PoolUpsample
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


def test_a_map_that_is_one_window_is_not_copied():
    x = torch.randn(2, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    assert split_windows(x, 4).data_ptr() == x.data_ptr()
    assert join_windows(split_windows(x, 4), 4, 4, 4).data_ptr() == x.data_ptr()


def test_offsets_are_logarithmic_and_normalised():
    steps = log_offsets(3)[:5, 1]
    expected = [-math.log2(9) / 3, -math.log2(5) / 3, 0, math.log2(5) / 3, math.log2(9) / 3]
    torch.testing.assert_close(steps, torch.tensor(expected))
    assert log_offsets(1).tolist() == [[0, 0]]


def test_index_is_query_minus_key():
    # In a window of 2, offsets run over (-1, 0, 1)^2; token 0 at (0, 0), token 3 at (1, 1).
    index = offset_index(2).view(4, 4)
    assert index[0, 3] == 0
    assert index[3, 0] == 8
    assert index.diagonal().tolist() == [4] * 4


def test_bias_depends_on_offsets_alone_and_lies_between_0_and_16():
    bias = PositionBias(3, heads=2, hidden=8)()[0]
    assert bias.shape == (2, 9, 9)
    assert torch.equal(bias[:, 0, 1], bias[:, 4, 5])
    assert 0 < bias.min() < bias.max() < 16


def test_attention_equals_the_formula():
    torch.manual_seed(0)
    attention, x = Attention(8, heads=2, window=2, cpb_hidden=4), torch.randn(3, 4, 8)
    q, k, v = attention.qkv(x).view(3, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-1, -2) * 4**-0.5 + attention.position()).softmax(-1)
    expected = attention.proj((weights @ v).transpose(1, 2).reshape(3, 4, 8))
    torch.testing.assert_close(attention(x), expected, atol=1e-6, rtol=1e-5)


def silent_layer():
    """A layer whose attention and MLP are zero: tokens pass unchanged."""
    layer = TransformerLayer(4, Attention(4, 1, 4, 4), Mlp(4, 8))
    nn.init.zeros_(layer.attention.proj.weight)
    nn.init.zeros_(layer.mlp.fc2.weight)
    return layer


def test_without_pre_conv_the_map_is_doubled_before_the_mean_with_the_input():
    x = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(WindowBlock(silent_layer(), 4)(x), 1.5 * x)


def test_a_window_that_does_not_divide_is_padded_and_cropped():
    x = torch.randn(1, 4, 7, 5)
    torch.testing.assert_close(WindowBlock(silent_layer(), 4)(x), 1.5 * x)


def test_nothing_is_resized_where_the_map_fits(monkeypatch):
    stage = Stage([WindowBlock(silent_layer(), 4)], step=4)
    resized = []
    monkeypatch.setattr("backbones.layers.stage.F.interpolate", lambda x, **k: resized.append(k["size"]) or x)
    stage(torch.randn(1, 4, 8, 4))
    assert resized == []
    stage(torch.randn(1, 4, 8, 5))
    assert resized == [(8, 8), (8, 5)]


def test_convolving_before_upsampling_equals_the_other_order_in_training_too():
    torch.manual_seed(0)
    up, x = PoolUpsample(4, 2), torch.randn(2, 4, 3, 3)
    late = up.conv(nn.functional.interpolate(x, scale_factor=2.0))
    torch.testing.assert_close(up(x), late, atol=1e-5, rtol=1e-5)
