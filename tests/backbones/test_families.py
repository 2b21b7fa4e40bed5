"""What makes each family's block what it is."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from backbones import build, fuse
from backbones.build import build_downsampling, build_stage
from backbones.layers.linear_attention import relu_attention
from backbones.layers.single_head import SingleHeadAttention
from backbones.layers.squeeze import SqueezeExcite
from backbones.layers.swin import PartitionedLayer
from backbones.layers.vit import PositionEmbedding
from nas.measure.counts import count
from search_space import PRESETS, ArchSpec, StageSpec
from search_space.families import FAMILIES
from tests.backbones.builders import ATTENTION, STAGES, WINDOWED, randomized

# Million parameters without classifier and GMACs of the network itself, as timm builds it (FasterViT's: of its paper),
# with the resolution in px. Measured with `nas.measure.counts`; beside the papers' own in search_space/families.py.
NAMESAKES = {
    "like_resnet18": (11.18, 1.814, 224),
    "like_resnet50": (23.51, 4.089, 224),
    "like_regnetx_032": (14.29, 3.177, 224),
    "like_regnety_016": (10.31, 1.612, 224),
    "like_convnext_tiny": (27.82, 4.456, 224),
    "like_efficientnetv2_s": (19.85, 8.366, 384),
    "like_efficientvit_b1": (4.64, 0.519, 224),
    "like_efficientvit_l1": (38.04, 5.168, 224),
    "like_hgnetv2_b4": (13.55, 2.728, 224),
    "like_swin_tiny": (27.52, 4.491, 224),
    "like_maxvit_tiny": (30.14, 5.552, 224),
    "like_poolformer_s12": (11.40, 1.812, 224),
    "like_fastervit_0": (30.9, 3.3, 224),
    "like_repvit_m0_9": (4.718, 0.8165, 224),
    "like_shvit_s4": (16.14, 0.9858, 256),
    "like_levit_256": (17.866, 1.1262, 224),
    "like_vit_base16": (85.80, 17.564, 224),
    "like_samvit_base16": (85.69, 17.521, 224),
    "like_vit_medium_reg4": (38.37, 10.746, 256),
    "like_vitdet_medium": (38.34, 8.1183, 224),
    "like_dinov3_small16": (21.59, 6.2453, 256),
}
CLOSE = (
    *("like_efficientnetv2_s", "like_efficientvit_l1", "like_hgnetv2_b4", "like_shvit_s4", "like_levit_256"),
    *("like_vit_base16", "like_samvit_base16", "like_repvit_m0_9"),
    *("like_vit_medium_reg4", "like_vitdet_medium", "like_dinov3_small16"),
)


@pytest.fixture(scope="module")
def counted():
    counts = {}
    for name, spec in FAMILIES.items():
        with torch.device("meta"):
            counts[name] = count(build(spec), NAMESAKES[name][2])
    return counts


@pytest.mark.parametrize("name", FAMILIES)
def test_size_and_cost_are_the_family_s(name, counted):
    params_m, gmacs, _ = NAMESAKES[name]
    tolerance = 0.03 if name in CLOSE else 0.15
    assert counted[name].params / 1e6 == pytest.approx(params_m, rel=tolerance)
    assert counted[name].macs / 1e9 == pytest.approx(gmacs, rel=tolerance)
    assert PRESETS[name] == FAMILIES[name]


class Fixed(torch.nn.Module):
    """A position bias that is what it is."""

    def __init__(self, bias):
        super().__init__()
        self.bias = bias

    def forward(self):
        return self.bias


def dense(partitioned, x, groups, places):
    """The same layer with every token of the map in one group, and pairs of different `groups` masked out.

    groups, places: by axis, the group of each row or column, and its place in the group.
    """
    h, w = x.shape[2:]
    (group_rows, group_columns), (rows, columns) = groups, places
    group = torch.stack(torch.meshgrid(group_rows, group_columns, indexing="ij"), -1).flatten(0, 1)
    place = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
    offset = place[:, None] - place[None, :] + partitioned.window - 1
    same = (group[:, None] == group[None, :]).all(-1)
    side = 2 * partitioned.window - 1
    row = (offset[..., 0] * side + offset[..., 1]).clamp(0, side * side - 1)
    layer = partitioned.layer
    bias = layer.attention.position.table[:, row].masked_fill(~same, -torch.inf).unsqueeze(0)
    layer.attention.position = Fixed(bias)
    return layer(x.flatten(2).transpose(1, 2).unsqueeze(1)).squeeze(1).transpose(1, 2).unflatten(2, (h, w))


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (4, 9), (2, 3), (1, 1)])
@pytest.mark.parametrize("form", ["plain", "shifted", "grid"])
@torch.no_grad()
def test_windows_shifts_and_grids_see_whom_they_should(form, size):
    torch.manual_seed(0)
    window, shift = 4, 2 if form == "shifted" else 0
    partitioned = PartitionedLayer(16, 32, 2, window, shift=shift, grid=form == "grid")
    partitioned.layer.attention.position.table.normal_()
    x, groups, places = torch.randn(2, 16, *size), [], []
    for side in size:
        token, padded = torch.arange(side), -(-side // window) * window
        moved = token - (shift if padded > window else 0)
        groups.append(token % (padded // window) if form == "grid" else moved.div(window, rounding_mode="floor"))
        places.append(token // (padded // window) if form == "grid" else moved)
    y = partitioned(x)
    torch.testing.assert_close(y, dense(partitioned, x, groups, places), atol=1e-5, rtol=1e-5)


def reach(spec, pixel=0):
    """Which pixels of an 8 x 8 map the one at row and column `pixel` depends on."""
    torch.manual_seed(0)
    x = torch.randn(1, 16, 8, 8, requires_grad=True)
    build_stage(spec).eval()(x)[0, :, pixel, pixel].sum().backward()
    return x.grad[0].abs().sum(0) > 0


def test_how_far_each_attention_reaches():
    assert reach(StageSpec("swin", 1, 16, window=2, **ATTENTION)).nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    shifted = StageSpec("swin", 2, 16, window=4, **ATTENTION)
    assert reach(shifted, 3).all()  # its second window joins the four of the first layer
    assert reach(shifted, 0).sum() == 16  # at the border it is cut
    assert reach(StageSpec("maxvit", 1, 16, window=4, **ATTENTION)).all()
    for kind in ("linear_attention", "single_head", "bn_attention", "vit", "attention"):
        assert reach(STAGES[kind]).all()
    assert reach(StageSpec("carrier", 1, 16, **WINDOWED)).all()
    assert not reach(STAGES["window"]).all()


@pytest.mark.parametrize("size", [(16, 16), (8, 15), (6, 13), (1, 4), (14, 7)])
@torch.no_grad()
def test_resizing_to_windows_and_back_moves_no_token(size):
    """Of carriers whose branches are zero, at ratios that are whole numbers or not."""
    stage = build_stage(StageSpec("carrier", 2, 16, **{**WINDOWED, "window": 7})).eval()
    (block,) = stage.blocks
    layers = [part for layer in block.layers for part in (layer.across, layer.within)]
    last = [part.attention.proj for part in layers] + [part.mlp[2] for part in layers]
    for linear in (*last, block.conv, block.token_position.mlp[2], block.carrier_position.mlp[2]):
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    x = torch.randn(2, 16, *size)
    assert torch.equal(stage(x), x)


@pytest.mark.parametrize(("block", "kernel"), [("mbconv", 5), ("convnext", 7), ("repdw", 3)])
def test_a_block_of_one_spatial_convolution_reaches_as_far_as_its_kernel(block, kernel):
    seen = reach(StageSpec(block, 1, 16, expansion=2.0, kernel=kernel), 4).nonzero()
    assert seen.min() == 4 - kernel // 2
    assert seen.max() == 4 + kernel // 2
    assert len(seen) == kernel**2


@pytest.mark.parametrize("block", ["c2f", "light_c2f"])
def test_a_bottleneck_has_two_spatial_convolutions(block):
    assert reach(StageSpec(block, 1, 16, expansion=0.5, kernel=3), 4).sum() == 5**2
    assert reach(StageSpec(block, 1, 16, expansion=0.5, kernel=5), 4).sum() == 8**2  # 9 x 9, cut at the border


@torch.no_grad()
def test_light_c2f_is_c2f_of_pointwise_and_depthwise_convolutions():
    (block,) = randomized(build_stage(STAGES["light_c2f"])).blocks
    x = torch.randn(2, 16, 6, 5)
    parts = list(block.split(x).chunk(2, 1))
    for pair in block.bottlenecks:
        y = parts[-1]
        for point, depthwise in pair:
            y = point.norm(F.conv2d(y, point.conv.weight.view(8, 8, 1, 1)))
            y = F.silu(depthwise.norm(F.conv2d(y, depthwise.conv.weight.view(8, 1, 5, 5), padding=2, groups=8)))
        parts.append(y + parts[-1])
    torch.testing.assert_close(block(x), block.merge(torch.cat(parts, 1)), atol=1e-5, rtol=1e-5)


def test_downsampling_layers_that_expand():
    stages = (StageSpec("pool", 1, 8, expansion=1.0), StageSpec("pool", 1, 12, expansion=1.0))
    spec = ArchSpec(stages, stem="patch", downsampling="mbconv", downsampling_expansion=2.5)
    fused = dataclasses.replace(spec, downsampling="fused_mbconv")
    down, fused_down = (build_downsampling(each, 0) for each in (spec, fused))

    def kernels(module):
        convs = [m for m in module.modules() if isinstance(m, torch.nn.Conv2d)]
        return [(conv.stride[0], tuple(conv.weight.shape)) for conv in convs]

    assert kernels(down) == [(1, (20, 8, 1, 1)), (2, (20, 1, 3, 3)), (1, (12, 20, 1, 1))]
    assert kernels(fused_down) == [(2, (20, 8, 3, 3)), (1, (12, 20, 1, 1))]
    for layer in (down, fused_down):
        layer, x = randomized(layer), torch.randn(2, 8, 7, 5)
        assert [type(part.act) for part in layer] == [torch.nn.SiLU] * (len(layer) - 1) + [torch.nn.Identity]
        assert layer(x).shape == (2, 12, 4, 3)
        with torch.no_grad():
            torch.testing.assert_close(fuse(layer)(x), layer(x), atol=1e-5, rtol=1e-5)


def test_relu_attention_is_the_quadratic_definition():
    q, k, v = torch.randn(3, 2, 4, 10, 8).unbind(0)
    weights = q.relu() @ k.relu().transpose(-1, -2)
    expected = weights @ v / (weights.sum(-1, keepdim=True) + 1e-5)
    torch.testing.assert_close(relu_attention(q, k, v), expected, atol=1e-5, rtol=1e-5)


def test_relu_attention_does_not_overflow_in_half_precision():
    q = k = v = torch.full((1, 1, 4096, 4), 10.0, dtype=torch.float16)
    with torch.autocast("cpu", torch.float16):
        assert (k.transpose(-1, -2) @ v).isinf().all()
        y = relu_attention(q, k, v)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y, v, atol=0.01, rtol=0)


def test_squeeze_excite_by_hand():
    gate = SqueezeExcite(2, 1, F.relu)
    for parameter, values in zip(gate.parameters(), ([1.0, 1.0], [-1.0], [1.0, -1.0], [0.0, 0.0]), strict=True):
        parameter.data = torch.tensor(values).view_as(parameter)
    x = torch.tensor([1.0, 3.0, 0.0, 2.0]).view(1, 2, 1, 2)  # means 2 and 1: 2 + 1 - 1 = 2
    factors = torch.tensor([2.0, -2.0]).sigmoid().view(1, 2, 1, 1)
    torch.testing.assert_close(gate(x), x * factors)


def test_one_head_attends_among_the_first_channels_and_the_others_pass():
    torch.manual_seed(0)
    attention, x = SingleHeadAttention(16, 8, 4).eval(), torch.randn(2, 16, 3, 5)
    torch.nn.init.normal_(attention.qkv.weight)
    q, k, v = attention.qkv(attention.norm(x[:, :8])).flatten(2).split((4, 4, 8), 1)
    weights = (q.transpose(1, 2) @ k / 2).softmax(-1)
    attended = (v @ weights.transpose(1, 2)).view(2, 8, 3, 5)
    expected = attention.project(torch.cat([attended, x[:, 8:]], 1))
    torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=1e-5)


def test_every_other_repdw_has_squeeze_excitation():
    blocks = build_stage(STAGES["repdw squeezed"]).blocks
    assert [isinstance(block.squeeze, SqueezeExcite) for block in blocks] == [True, False, True]
    assert not [m for m in build_stage(STAGES["repdw"]).modules() if isinstance(m, SqueezeExcite)]


def test_position_embeddings_follow_the_map():
    embedding = PositionEmbedding(1, 4)
    embedding.table.data = torch.linspace(0, 3, 4).view(1, 1, 1, 4).expand(1, 1, 4, 4)
    assert torch.equal(embedding(torch.zeros(1, 1, 4, 4)), embedding.table)
    wide = embedding(torch.zeros(1, 1, 4, 8))[0, 0]
    torch.testing.assert_close(wide[:, 1:7], (torch.arange(1, 7) / 2 - 0.25).expand(4, 6))
