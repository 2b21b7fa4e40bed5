"""LeViT's attention by its definition: narrow keys, biases of offsets at any map size, and queries of fewer tokens."""

import copy
import itertools

import pytest
import torch
from torch.export import Dim
from torch.nn import functional as F

from backbones import fuse
from backbones.build import DOWNSAMPLING_BUILDERS
from backbones.layers.bn_attention import (
    AttentionDownsampling,
    NarrowAttention,
    OffsetBias,
    ShrinkingAttention,
)
from nas.measure.counts.macs import MacCountingMode
from tests.backbones.builders import randomized


def by_position(q, k, v, table, stride):
    """Attention among maps (heads, D, rows, columns), one query at a time; a table (heads, rows, columns) of biases."""
    places = list(itertools.product(range(k.shape[2]), range(k.shape[3])))
    out = torch.empty(len(v), v.shape[1], *q.shape[2:])
    for head, i, j in itertools.product(range(len(q)), range(q.shape[2]), range(q.shape[3])):
        products = [q[head, :, i, j] @ k[head, :, r, c] / q.shape[1] ** 0.5 for r, c in places]
        biases = [table[head, abs(stride * i - r), abs(stride * j - c)] for r, c in places]
        weights = (torch.stack(products) + torch.stack(biases)).softmax(0)
        out[head, :, i, j] = v[head].flatten(1) @ weights
    return out.flatten(0, 1).unsqueeze(0)


def lively(module):
    """In eval mode, with norms, weights and biases of logits that all matter."""
    module = randomized(module)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return module


@torch.no_grad()
def test_a_block_attends_by_its_definition():
    attention, x = lively(NarrowAttention(16, heads=3, key_width=4, grid=4)), torch.randn(1, 16, 4, 4)
    q, k, v = attention.qkv(x).view(3, 16, 4, 4).split((4, 4, 8), 1)
    expected = attention.project(F.hardswish(by_position(q, k, v, attention.position.table, 1)))
    torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_downsampling_attends_from_every_second_token_to_all():
    attention, x = lively(ShrinkingAttention(8, 12, heads=2, key_width=4, grid=14)), torch.randn(1, 8, 14, 14)
    q = attention.q.norm(F.conv2d(x, attention.q.conv.weight))[:, :, ::2, ::2].reshape(2, 4, 7, 7)
    k, v = attention.kv(x).view(2, 20, 14, 14).split((4, 16), 1)
    expected = attention.project(F.hardswish(by_position(q, k, v, attention.position.table, 2)))
    torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(5, 5), (3, 9), (1, 4), (8, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_biases_of_offsets_are_interpolated_to_any_map(height, width, stride):
    """A bias that is linear in the offset, as a share of the map's largest offset, stays so."""
    bias = OffsetBias(5, 2, stride)
    share = torch.linspace(0, 1, 5)
    bias.table.data = torch.stack([share[:, None] + 10 * share, 3 * share[:, None] * torch.ones(5)])
    found = bias(height, width)
    queries = list(itertools.product(range(0, height, stride), range(0, width, stride)))
    keys = list(itertools.product(range(height), range(width)))
    assert found.shape == (1, 2, len(queries), len(keys))
    for a, (i, j) in enumerate(queries):
        for b, (r, c) in enumerate(keys):
            down, right = abs(i - r) / max(height - 1, 1), abs(j - c) / max(width - 1, 1)
            torch.testing.assert_close(found[0, :, a, b], torch.tensor([down + 10 * right, 3 * down]))


def test_the_bias_of_the_grid_is_constant_when_deployed_and_others_follow_the_table():
    fused = fuse(OffsetBias(3, 2))
    others = (4, 3), (3, 4)
    before = fused(3, 3)
    assert all(fused(*size).any() for size in others)
    fused.table.zero_()
    assert torch.equal(fused(3, 3), before)
    assert not any(fused(*size).any() for size in others)


@pytest.mark.parametrize(
    "change",
    [
        lambda fused, other: fused.load_state_dict(other.state_dict()),
        lambda fused, other: fused.load_state_dict(other.state_dict(), assign=True),
        lambda fused, other: fused.table.copy_(other.table),
        lambda fused, other: setattr(fused, "table", other.table),
    ],
)
def test_a_kept_bias_follows_other_weights(change):
    fused, other = fuse(OffsetBias(3, 2)), fuse(OffsetBias(3, 2))
    before = fused(4, 5)
    change(fused, other)
    assert not torch.equal(other(4, 5), before)
    assert torch.equal(fused(4, 5), other(4, 5))
    copied = copy.deepcopy(fused)
    copied.table.zero_()
    assert not copied(4, 5).any()
    assert torch.equal(fused(4, 5), other(4, 5))


def test_a_kept_bias_follows_types_and_devices():
    fused = fuse(OffsetBias(3, 2))
    exact = fused(4, 5)
    half = fused.bfloat16()(4, 5)
    assert half.dtype == torch.bfloat16
    assert torch.equal(fused.float()(4, 5), OffsetBias._bias(fused, 4, 5, False)), "of the rounded table"
    assert not torch.equal(fused(4, 5), exact)
    assert fused.to("meta")(4, 5).is_meta


def test_a_kept_bias_serves_autograd_and_inference():
    attention = fuse(lively(NarrowAttention(8, heads=2, key_width=4, grid=3)))
    x = torch.randn(2, 8, 4, 5)
    with torch.inference_mode():
        wanted = attention(x)
    y = attention(x.requires_grad_())
    y.sum().backward()  # refuses to save a tensor that was made in inference mode
    torch.testing.assert_close(y, wanted)
    attention.position.table.requires_grad_()
    attention(x).sum().backward()
    assert attention.position.table.grad.any()
    with torch.no_grad():
        zero = {"position.table": torch.zeros_like(attention.position.table)}
        without = torch.func.functional_call(attention, zero, (x,))
        assert not torch.allclose(without, wanted)
        torch.testing.assert_close(attention(x), wanted)


@torch.no_grad()
def test_a_kept_bias_is_no_part_of_a_graph():
    attention = fuse(lively(NarrowAttention(8, heads=2, key_width=4, grid=3)))
    x = torch.randn(2, 8, 4, 5)
    wanted = attention(x)
    compiled = torch.compile(attention, backend="eager", fullgraph=True)
    exported = torch.export.export(attention, (x,), strict=False)
    torch.testing.assert_close(compiled(x), wanted)
    torch.testing.assert_close(exported.module()(x), wanted)
    assert set(exported.constants) <= {"position.constant"}
    attention.position.table.zero_()
    without = attention(x)
    assert not torch.equal(without, wanted)
    torch.testing.assert_close(compiled(x), without)


@torch.no_grad()
def test_a_graph_of_any_size_has_the_bias_of_each_map():
    attention = fuse(lively(NarrowAttention(8, heads=2, key_width=4, grid=3)))
    sides = {2: Dim("rows", min=2), 3: Dim("columns", min=2)}
    example = (torch.randn(2, 8, 4, 5),)
    graph = torch.export.export(attention, example, dynamic_shapes={"x": sides}, strict=False).module()
    for size in ((3, 3), (4, 5), (6, 2)):
        x = torch.randn(2, 8, *size)
        torch.testing.assert_close(graph(x), attention(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("example", [(3, 3), (4, 5)])
def test_a_trace_has_the_bias_of_each_map(example):
    attention = fuse(lively(NarrowAttention(8, heads=2, key_width=4, grid=3)))
    trace = torch.jit.trace(attention, torch.randn(2, 8, *example), check_trace=False)
    for size in ((3, 3), (4, 5), (6, 2)):
        x = torch.randn(2, 8, *size)
        torch.testing.assert_close(trace(x), attention(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(14, 14), (7, 7), (5, 2), (1, 1)])
def test_a_downsampling_has_half_the_side_rounded_up_and_fuses(size):
    down, x = randomized(AttentionDownsampling(16, 24, heads=2, key_width=8, grid=14)), torch.randn(2, 16, *size)
    fused = fuse(down)
    assert not [m for m in fused.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        y = down(x)
        torch.testing.assert_close(fused(x), y, atol=1e-5, rtol=1e-5)
    assert y.shape == (2, 24, -(-size[0] // 2), -(-size[1] // 2))


def test_the_mlp_of_a_downsampling_has_a_skip_and_its_attention_none():
    down, x = randomized(AttentionDownsampling(16, 24, heads=2, key_width=8, grid=14)), torch.randn(2, 16, 4, 4)
    attended = down.attention(x)
    torch.testing.assert_close(down(x), attended + down.mlp(attended))
    torch.nn.init.zeros_(down.attention.project.norm.weight)
    torch.nn.init.zeros_(down.attention.project.norm.bias)
    assert not down.attention(x).any()


def shrinking(channels, width, heads, keys, side):
    """MACs: queries; keys and values; both products; projection; MLP of expansion 2."""
    all_tokens, queries, keys, values = side**2, (-(-side // 2)) ** 2, heads * keys, 4 * heads * keys
    linears = queries * channels * keys + all_tokens * channels * (keys + values)
    return linears + queries * (all_tokens * (keys + values) + values * width + 2 * width * 2 * width)


@pytest.mark.parametrize(("channels", "heads", "keys"), [(40, 2, 16), (200, 6, 32)])
@pytest.mark.parametrize("side", [6, 3])
def test_macs_of_a_downsampling_are_those_of_the_definition(channels, heads, keys, side):
    with torch.device("meta"):
        down = DOWNSAMPLING_BUILDERS["attention"](channels, 24).eval()
        with MacCountingMode() as counted:
            down(torch.empty(1, channels, side, side))
    assert counted.macs == shrinking(channels, 24, heads, keys, side)
