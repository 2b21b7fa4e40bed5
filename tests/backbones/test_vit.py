"""The ViT stage: windows, global layers, registers, and the summary token."""

import math
from dataclasses import replace

import pytest
import timm
import torch
from timm.models import group_parameters

from backbones import build, entrypoints, fuse, load, save
from backbones.build import build_stage, parameters_of
from backbones.layers import stage, vit_layer
from backbones.layers.vit import ViT, rotary_embedding
from backbones.layers.vit_layer import ViTAttention, ViTLayer
from nas.measure.counts import count, totals
from search_space import PRESETS, ArchSpec, StageSpec
from tests.backbones.builders import ATTENTION, STAGES, WINDOWED, randomized, spec_of

FULL = STAGES["vit windows"]  # windows of 5, every second layer global, 4 registers
TOKEN = spec_of(FULL, summary="token")


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5 * b.abs().max().item(), rtol=0)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return randomized(build(TOKEN))


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randn(3, 3, 64, 96)


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (4, 9), (2, 3), (1, 1), (13, 6)])
@pytest.mark.parametrize("rotated", [False, True])
@torch.no_grad()
def test_each_window_is_a_map_of_its_own(size, rotated):
    torch.manual_seed(0)
    layer = randomized(ViTLayer(16, 32, 2))
    x, expected = torch.randn(2, 16, *size), torch.empty(2, 16, *size)
    counts = [-(-side // 4) for side in size]  # windows of 4 at most, as few as possible, as small as these allow
    rotation = rotary_embedding(x, 8) if rotated else None
    rows, columns = (torch.arange(side).split(-(-side // n)) for side, n in zip(size, counts, strict=True))
    for r in rows:
        for c in columns:
            part = slice(r[0], r[-1] + 1), slice(c[0], c[-1] + 1)
            turns = None if rotation is None else rotation[:, *part]
            expected[:, :, *part] = ViT(layer)(x[:, :, *part], None, turns)[0]
    y, registers = ViT(layer, 4)(x, None, rotation)
    close(y, expected)
    assert registers is None
    assert (len(rows) * len(columns) == 1) or not torch.allclose(y, ViT(layer)(x, None, rotation)[0], atol=1e-3)


def test_every_third_layer_is_global():
    torch.manual_seed(0)
    _, *layers = build_stage(StageSpec("vit", 7, 16, grid=4, window=4, global_every=3, **ATTENTION)).eval().blocks
    reached = []
    for layer in layers:
        x = torch.randn(1, 16, 8, 8, requires_grad=True)
        layer(x)[0][0, :, 0, 0].sum().backward()
        reached.append(int((x.grad[0].abs().sum(0) > 0).sum()))
    assert reached == [16, 16, 64, 16, 16, 64, 16]


@torch.no_grad()
def test_registers_reach_all_tokens_in_global_layers_and_pass_the_others():
    torch.manual_seed(0)
    embed, *layers = randomized(build_stage(replace(FULL, depth=3, global_every=2))).blocks
    x = torch.randn(2, 16, 7, 5)
    runs = []
    for shift in (0.0, 1.0):
        y, registers = embed(x)
        states = [(y, registers + shift * torch.randn_like(registers))]
        for layer in layers:
            states.append(layer(*states[-1]))
        runs.append(states)
    changed = [(a[0] != b[0]).any(1) for a, b in zip(*runs, strict=True)]
    assert [bool(c.any()) for c in changed] == [False, False, True, True]
    assert changed[2].all()
    (_, before), (_, after), (_, later) = runs[0][:3]
    assert torch.equal(before, after)
    assert (after != later).all()


@pytest.mark.parametrize("rotated", [False, True])
@torch.no_grad()
def test_a_global_layer_attends_among_registers_and_tokens(rotated):
    torch.manual_seed(0)
    layer, x, registers = randomized(ViTLayer(16, 32, 2)), torch.randn(2, 16, 3, 5), torch.randn(2, 4, 16)
    rotation = turns = None
    if rotated:  # tokens only: a register's sines are 0, its cosines 1
        rotation = rotary_embedding(x, 8)
        turns = torch.cat([rotation.flatten(1, 2), torch.arange(2).repeat_interleave(8).expand(1, 4, 16)], 1)
    y, after = ViT(layer)(x, registers, rotation)
    tokens = torch.cat([x.flatten(2).transpose(1, 2), registers], 1)  # the order does not matter
    expected = layer(tokens.unsqueeze(1), rotation=turns).squeeze(1)
    close(y.flatten(2).transpose(1, 2), expected[:, :15])
    close(after, expected[:, 15:])


def test_rotations_by_hand():
    """Of a head of 8 channels: two bands of each axis, then the same again, for the other half of each pair."""
    sines, cosines = rotary_embedding(torch.empty(1, 16, 2, 4), 8)[0, 1, 0].view(2, 2, 4)
    angles = [2 * math.pi * place / period for place in (0.5, -0.75) for period in (1, 10)]
    for half in (0, 1):
        close(sines[half], torch.tensor([math.sin(a) for a in angles]))
        close(cosines[half], torch.tensor([math.cos(a) for a in angles]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rotation_turns_pairs_of_channels_and_keeps_their_type(dtype):
    """Channel i and i + C / 2 are a pair; the angles are in fp32."""
    x, angles = torch.randn(2, 3, 5, 8).to(dtype), torch.randn(3, 5, 4)
    sines, cosines = (torch.cat([f(angles)] * 2, -1) for f in (torch.sin, torch.cos))
    turned = vit_layer.rotated(x, sines, cosines)
    first, second = x.float().chunk(2, -1)
    expected = torch.complex(first, second) * torch.polar(torch.ones_like(angles), angles)
    assert turned.dtype == dtype
    torch.testing.assert_close(turned, torch.cat([expected.real, expected.imag], -1).to(dtype))


@torch.no_grad()
def test_rotated_attention_weighs_tokens_by_their_offset():
    """Of tokens with the same query and the same key everywhere, in a row of 16; values show the weights."""
    torch.manual_seed(0)
    attention = ViTAttention(16, 2)
    attention.qkv.bias.copy_(torch.cat([3 * torch.randn(32), torch.zeros(16)]))
    attention.qkv.weight.copy_(torch.cat([torch.zeros(32, 16), torch.eye(16)]))
    attention.proj.weight.copy_(torch.eye(16))
    attention.proj.bias.zero_()
    rotation = rotary_embedding(torch.empty(1, 16, 1, 16), 8)[:, 0]
    found = attention(torch.eye(16).view(1, 1, 16, 16), rotation=rotation)[0, 0]
    place = torch.arange(16)
    angles = (place[:, None] - place[None, :])[..., None] * (2 * math.pi / 8) / torch.tensor([1.0, 10.0])
    for head in range(2):
        # Channels 0, 1 and their partners 4, 5 turn with the row, which is the same; 2, 3 and 6, 7 with the column.
        query, key = (torch.complex(v[:4], v[4:]) for v in attention.qkv.bias[:32].view(2, 2, 8)[:, head])
        turns = torch.cat([torch.ones(16, 16, 2), torch.polar(torch.ones(16, 16, 2), angles)], -1)
        weights = ((query * turns * key.conj()).sum(-1).real / 8**0.5).softmax(-1)
        own = slice(8 * head, 8 * head + 8)
        close(found[:, own], weights[:, own])
    assert found.std(0).min() > 0.01


@torch.no_grad()
def test_the_summary_is_the_first_register_after_a_norm(model, images):
    y = model.stem(images)
    for place, part in enumerate(model.stages):
        y = model.downs[place - 1](y) if place else y
        y, registers = part.blocks[0](y)
        for layer in part.blocks[1:]:
            y, registers = layer(y, registers)
    norm = torch.nn.functional.layer_norm(
        registers[:, 0], (16,), model.summary_norm.weight, model.summary_norm.bias, 1e-5
    )
    features = model.encode(images)
    close(features.summary, norm)
    close(features.spatial, model.norm(y))
    assert features.summary.shape == (3, model.summary_dim)


@torch.no_grad()
def test_classifier_and_maps_do_not_depend_on_the_summary(model, images):
    pooled = build(replace(TOKEN, summary=None)).eval()
    state = model.state_dict()
    pooled.load_state_dict({key: value for key, value in state.items() if not key.startswith("summary_norm.")})
    assert set(state) - set(pooled.state_dict()) == {"summary_norm.weight", "summary_norm.bias"}
    assert torch.equal(model(images), pooled(images))
    assert torch.equal(model.encode(images).spatial, pooled.encode(images).spatial)
    close(pooled.encode(images).summary, model.forward_head(model.forward_features(images), pre_logits=True))
    assert not torch.allclose(model.encode(images).summary, pooled.encode(images).summary, atol=0.1)


@torch.no_grad()
def test_fused_and_exported_are_the_same_function(images):
    torch.manual_seed(0)
    model = randomized(build(ArchSpec((FULL,), stem="patch16", summary="token")))
    expected = model.encode(images)
    for a, b in zip(fuse(model).encode(images), expected, strict=True):
        close(a, b)

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return tuple(self.model.encode(x))

    batch = {"x": {0: torch.export.Dim("batch")}}
    exported = torch.export.export(Encoder(), (images[:2],), dynamic_shapes=batch, strict=False).module()
    for a, b in zip(exported(images), expected, strict=True):
        close(a, b)


@pytest.mark.parametrize(
    "positions", [None, *(pytest.param(p, marks=pytest.mark.slow) for p in ("conditional", "rotary"))]
)
@torch.no_grad()
def test_a_stage_without_windows_is_exported_for_any_size(positions):
    torch.manual_seed(0)
    part = randomized(build_stage(replace(FULL, window=None, registers=2, positions=positions, grid=4)))
    dims = {axis: torch.export.Dim(name, min=2) for axis, name in ((0, "batch"), (2, "rows"), (3, "columns"))}
    example = torch.randn(2, 16, 4, 6)  # as high as the grid, which must not count
    exported = torch.export.export(part, (example,), dynamic_shapes=(dims,), strict=False).module()
    traced = torch.jit.trace(part, example[..., :4])
    for shape in ((2, 16, 4, 6), (3, 16, 4, 4), (5, 16, 7, 3)):
        x = torch.randn(shape)
        close(exported(x), part(x))
        close(traced(x), part(x))


def test_checkpointing_saves_activations_and_changes_no_gradient(images):
    torch.manual_seed(0)
    model = build(TOKEN)
    plain = saved_and_gradients(model, images)
    model.set_grad_checkpointing()
    fewer = saved_and_gradients(model, images)
    assert fewer[0] < plain[0] / 2
    for a, b in zip(fewer[1], plain[1], strict=True):
        close(a, b)


def saved_and_gradients(model, images):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        loss = sum(features.square().sum() for features in model.encode(images))
    model.zero_grad()
    loss.backward()
    return sum(kept), [p.grad.clone() for p in model.parameters()]


def test_dropped_paths_leave_map_and_registers():
    part, x = build_stage(FULL, (1.0,) * FULL.depth).train(), torch.rand(2, 16, 7, 5)
    y, token = part(x, with_token=True)
    assert torch.equal(y, part.blocks[0].position(x))
    assert torch.equal(token, part.blocks[0].registers[:, 0].expand(2, -1))


@torch.no_grad()
def test_images_by_the_cacheful_have_their_tokens(monkeypatch):
    part, x = randomized(build_stage(FULL)), torch.randn(5, 16, 7, 4)
    whole = part(x, with_token=True)
    monkeypatch.setattr(stage, "CHUNK_VALUES", 2 * 16 * 7 * 4)
    assert len(part.parts(x)) == 3
    for a, b in zip(part(x, with_token=True), whole, strict=True):
        close(a, b)


def test_windows_of_a_vit_do_not_follow_the_resolution():
    windowed = StageSpec("window", 1, 16, pre_conv="none", **WINDOWED)
    model = build(ArchSpec((windowed, FULL), stem="patch", summary="token"))
    model.change_resolution(224)
    assert [s.window for s in model.spec.stages] == [7, 5]
    assert [layer.window for layer in model.stages[1].blocks[1:]] == [5, None, 5, None]
    assert model.spec.summary == "token"


def test_the_image_of_a_windowed_vit_is_that_of_its_grid():
    spec = ArchSpec((StageSpec("vit", 4, 16, grid=10, window=4, global_every=2, **ATTENTION),), stem="patch16")
    assert entrypoints.image_px(spec) == 160


VITS = [
    FULL,
    StageSpec("vit", 13, 16, grid=4, window=3, global_every=4, registers=2, **ATTENTION),
    StageSpec("vit", 7, 16, window=5, positions="conditional", **ATTENTION),
    StageSpec("vit", 5, 16, grid=4, registers=1, layer_scale=0.1, **ATTENTION),
    StageSpec("vit", 5, 16, window=3, global_every=2, registers=3, positions="rotary", **ATTENTION),
    StageSpec("vit", 6, 128, expansion=3, heads=4, grid=4, window=8, global_every=6, registers=1, mlp="swiglu"),
]


@pytest.mark.parametrize("vit", VITS)
def test_sums_over_few_layers_are_exact(vit):
    spec = ArchSpec((vit,), stem="patch16", summary="token" if vit.registers else None)
    with torch.device("meta"):
        model = build(spec)
    params = sum(p.numel() for p in model.parameters())
    assert parameters_of(spec) == params
    for px in (64, 160):
        counts = count(model, px)
        assert totals(spec, px) == (counts.macs, counts.params)
        assert counts.params == params


def test_groups_of_parameters_have_registers_first_and_the_norms_last(model):
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    assert groups["stages.0.blocks.0.registers"] == groups["stages.0.blocks.0.position.table"] == 1
    assert groups["summary_norm.weight"] == groups["norm.weight"] == groups["stages.3.blocks.4.layer.norm1.weight"]


@torch.no_grad()
def test_weights_come_back_with_the_token_by_name_only_where_it_is_kept(model, images, tmp_path):
    path = tmp_path / "mine.safetensors"
    save(model, path)
    expected = model.encode(images)
    for a, b in zip(load(path).eval().encode(images), expected, strict=True):
        assert torch.equal(a, b)
    if not timm.is_model("micro_token"):
        entrypoints.register("micro_token", TOKEN)
    options = {"pretrained": True, "num_classes": 0, "pretrained_cfg_overlay": {"file": str(path)}}
    whole, bare = (timm.create_model("micro_token", neck=neck, **options).eval() for neck in (True, False))
    assert torch.equal(whole.encode(images).summary, expected.summary)
    assert bare.summary_norm is None
    assert torch.equal(bare(images), model(images))


@pytest.mark.parametrize("name", ["like_vitdet_medium", "like_vit_base16", "like_dinov3_small16"])
def test_presets_take_any_size(name):
    with torch.device("meta"):
        features = build(PRESETS[name]).eval().encode(torch.empty(1, 3, 96, 544))
    assert features.spatial.shape == (1, PRESETS[name].stages[0].width, 6, 34)
