"""Whole backbones: what they declare is what they give."""

import copy
import random

import pytest
import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch.nn.parallel import DistributedDataParallel

from backbones import InputSizeError, build, fuse
from backbones.backbone import count_parameters
from backbones.build import build_stage
from backbones.layers.resample import ToEven
from backbones.skip_init import skip_init
from nas.measure.counts import count, totals
from search_space import PRESETS, SPACES, ArchSpec, StageSpec
from search_space.arch import DOWNSAMPLINGS, NECKS, STEM_STRIDES
from tests.backbones.builders import STAGES, calibrate, spec_of

MILLIONS = {
    "eradio_l_fullres": 389.6,
    "eradio_b": 112.7,
    "eradio_l": 253.3,
    "eradio_s": 63.5,
    "eradio_xxxtiny": 10.3,
    "eradio_xxxtiny_8x_ws12": 6.3,
    "eradio_xxxtiny_8x_ws16": 6.3,
}
FORMS = [
    *zip([stem for stem in STEM_STRIDES if STEM_STRIDES[stem] == 4], DOWNSAMPLINGS, NECKS, strict=False),
    *(("patch", downsampling, "none") for downsampling in DOWNSAMPLINGS[3:]),
]


def form(stage, stem, downsampling, neck):
    options = {"downsampling_expansion": 3.0, "neck_dim": 24}  # read by some forms only
    return spec_of(stage, stem=stem, downsampling=downsampling, neck=neck, **options)


def on_meta(spec):
    with torch.device("meta"):
        return build(spec).eval()


@torch.inference_mode()
def check_declared(model, images):
    maps = []
    for stage in model.stages:  # hooks, because a second forward pass for the intermediates would double the time
        stage.register_forward_hook(lambda module, inputs, output: maps.append(output))
    features = model.encode(images)
    h, w = images.shape[2:]
    assert features.summary.shape == (len(images), model.summary_dim)
    s = model.spatial_stride
    assert features.spatial.shape == (len(images), model.spatial_dim, -(-h // s), -(-w // s))
    declared = zip(model.feature_info, maps, strict=True)
    assert all(m.shape[1:] == (i["num_chs"], -(-h // i["reduction"]), -(-w // i["reduction"])) for i, m in declared)
    assert model.widths == tuple(i["num_chs"] for i in model.feature_info)
    assert model.strides == tuple(i["reduction"] for i in model.feature_info)
    return features


@pytest.mark.parametrize("name", MILLIONS)
def test_parameters_of_the_family(name):
    millions = sum(p.numel() for p in on_meta(PRESETS[name]).parameters()) / 1e6
    assert millions == pytest.approx(MILLIONS[name], rel=0.01)


@pytest.mark.parametrize("space", SPACES)
def test_random_specs_give_what_they_declare(space):
    # Small nets are really run: faster than the meta device, and NaN shows.
    small = SPACES[space].image_px == 64
    rng, size, make = random.Random(0), *(((64, 96), build) if small else ((224, 224), on_meta))
    for _ in range(12 if small else 5):
        model = make(SPACES[space].sample(rng)).eval()
        features = check_declared(model, torch.ones(1, 3, *size, device=next(model.parameters()).device))
        assert not small or features.spatial.isfinite().all()


@pytest.mark.parametrize(
    ("downsampling", "stem", "neck"),
    list(zip(DOWNSAMPLINGS, ("conv16", "patch16") * 3, ("none", "stage2", "stage1") * 2, strict=True)),
)
def test_three_stages_from_stride_16_take_any_multiple_of_32(stem, neck, downsampling):
    """At stride 64 the maps of 96 px have two places a side, of which the second one is half outside."""
    torch.manual_seed(0)
    down = {"downsampling": downsampling, "downsampling_expansion": 2.0}
    spec = ArchSpec((STAGES["repdw"],) * 3, stem=stem, neck=neck, neck_dim=24, **down)
    model = build(spec)
    calibrate(model)
    fused = fuse(model)
    for size in ((96, 160), (224, 32)):
        x = torch.randn(2, 3, *size)
        features = check_declared(model.eval(), x)
        with torch.no_grad():
            for a, b in zip(fused.encode(x), features, strict=True):
                torch.testing.assert_close(a, b, atol=1e-5 * b.abs().max().item(), rtol=0)
    assert model.strides == (16, 32, 64)
    with skip_init():
        assert totals(spec, 96) == (count(build(spec), 96).macs, count_parameters(model))


def test_the_stem_of_four_convolutions_doubles_its_width_each_time():
    stem = build(ArchSpec((StageSpec("pool", 1, 64, expansion=1.0),), stem="conv16")).stem
    convolutions = [module for module in stem.modules() if isinstance(module, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [8, 16, 32, 64]
    assert {(c.kernel_size, c.stride) for c in convolutions} == {((3, 3), (2, 2))}


def test_an_odd_side_is_halved_upwards_without_making_the_border_darker():
    ones = torch.ones(1, 4, 7, 5)
    assert ToEven()(ones).equal(torch.ones(1, 4, 8, 6))
    assert ToEven()(ones[..., :6, :4]).equal(torch.ones(1, 4, 6, 4))


def test_any_multiple_of_32():
    model = on_meta(PRESETS["eradio_xxxtiny_8x_ws16"])
    for size in ((32, 32), (96, 160), (224, 32)):
        check_declared(model, torch.empty(1, 3, *size, device="meta"))


@pytest.mark.parametrize("shape", [(1, 3, 64, 65), (1, 3, 48, 64), (1, 1, 64, 64), (3, 64, 64), (1, 3, 0, 64)])
def test_other_inputs_are_refused_in_one_line(shape):
    with pytest.raises(InputSizeError, match=r"^input: [^\n]*$"):
        on_meta(PRESETS["eradio_femto"]).encode(torch.empty(shape, device="meta"))


@pytest.mark.parametrize(("stem", "downsampling", "neck"), FORMS)
def test_gradient_reaches_every_parameter(stem, downsampling, neck):
    torch.manual_seed(0)
    model = build(form(STAGES["basic"], stem, downsampling, neck))
    summary, spatial = model.encode(torch.randn(4, 3, 64, 64))
    ((summary * torch.randn_like(summary)).sum() + (spatial * torch.randn_like(spatial)).sum()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


@pytest.mark.parametrize(("stem", "downsampling", "neck"), FORMS)
def test_fused_equals_unfused(stem, downsampling, neck):
    torch.manual_seed(0)
    model = build(form(STAGES["c2f"], stem, downsampling, neck))
    calibrate(model)
    fused, x = fuse(model), torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        for a, b in zip(fused.encode(x), model.eval().encode(x), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5 * b.abs().max().item(), rtol=0)


@pytest.fixture(scope="module")
def femto():
    torch.manual_seed(0)
    return build(PRESETS["eradio_femto"]).eval()


def test_intermediates_follow_timm(femto):
    x = torch.randn(1, 3, 64, 64)
    last, maps = femto.forward_intermediates(x)
    assert torch.equal(last, femto.forward_features(x))
    assert torch.equal(femto.norm(maps[-1]), last)
    assert [m.shape[1] for m in femto.forward_intermediates(x, indices=2, intermediates_only=True)] == [64, 128]
    (first,) = femto.forward_intermediates(x, indices=[-4], intermediates_only=True, stop_early=True)
    assert torch.equal(first, maps[0])
    (normed,) = femto.forward_intermediates(x, indices=[3], norm=True, intermediates_only=True)
    assert torch.equal(normed, last)
    for wrong, words in (([4], "indices: 4"), (5, "indices: -5")):
        with pytest.raises(ValueError, match=words):
            femto.forward_intermediates(x, indices=wrong)


def test_stage_modules_hold_every_parameter_once(femto):
    parts = femto.stage_modules()
    assert [name for name, _ in parts] == [
        *("stem", "stage1", "down1", "stage2", "down2", "stage3", "down3", "stage4", "norm", "neck")
    ]
    assert sum(p.numel() for _, m in parts for p in m.parameters()) == sum(p.numel() for p in femto.parameters())


@pytest.fixture(params=[torch.nn.Sequential, convert_sync_batchnorm, DistributedDataParallel])
def wrap(request):
    """A function that prepares a backbone for training. On a CPU, norms can be synchronized without a group only."""
    if request.param is not DistributedDataParallel:
        yield request.param
        return
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield DistributedDataParallel
    dist.destroy_process_group()


def test_recomputed_blocks_count_a_batch_once(wrap):
    torch.manual_seed(0)
    stages = tuple(STAGES[kind] for kind in ("c2f", "pool", "mr_window pool", "bn_attention"))
    plain = build(ArchSpec(stages, stem="patch"))
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None if wrap is torch.nn.Sequential else 0.1
    recomputing = copy.deepcopy(plain)
    recomputing.set_grad_checkpointing()
    gradients = []
    for model in (plain, recomputing):
        wrapped = wrap(model)
        for step in range(2):
            loss = wrapped(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(step))).square().sum()
            loss.backward(retain_graph=True)
            loss.backward()
        gradients.append([p.grad for p in wrapped.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
    for (name, a), (_, b) in zip(plain.named_buffers(), recomputing.named_buffers(), strict=True):
        assert torch.equal(a, b), name
    assert {int(b) for name, b in recomputing.named_buffers() if name.endswith("num_batches_tracked")} == {2}


@pytest.mark.slow
def test_compiled_and_recomputed_blocks_count_a_batch_once():
    plain, x = build_stage(STAGES["c2f wide"]), torch.randn(4, 16, 4, 4)
    recomputing = copy.deepcopy(plain)
    recomputing.grad_checkpointing = True
    recomputing.compile(backend="aot_eager")
    for stage in (plain, recomputing):
        stage(x).square().sum().backward()
    for (name, a), (_, b) in zip(plain.named_buffers(), recomputing.named_buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("window", {"position.mlp"}),
        ("carrier", {"position.local.mlp", "token_position.mlp", "carrier_position.mlp"}),
        ("maxvit", {"position.table"}),
        ("vit windows", {"position.table", "registers"}),
        ("convnext", set()),
    ],
)
def test_weight_decay_leaves_positions_and_registers_alone(name, parts):
    backbone = build(spec_of(STAGES[name]))
    exempt = backbone.no_weight_decay()
    assert exempt <= dict(backbone.named_parameters()).keys()
    assert {part for part in parts if any(f"{part}." in f"{each}." for each in exempt)} == parts
    assert all(any(f"{part}." in f"{each}." for part in parts) for each in exempt)
