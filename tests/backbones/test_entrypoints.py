"""Our presets through timm's front door: what timm's users do with a model works with ours."""

import random
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import freeze_batch_norm_2d
from timm.models import group_parameters, model_entrypoint
from timm.utils import reparameterize_model

from backbones import InputSizeError, WeightsError, build, entrypoints, load, save
from backbones.entrypoints import default_cfg, image_px
from search_space import PRESETS, SPACES, ArchSpec, StageSpec
from search_space.arch import SIZE_MULTIPLE_PX
from search_space.presets import eradio
from tests.backbones.builders import KINDS, STAGES, calibrate, spec_of

FEMTO = "eradio_femto"
# Convolutions and windows, windows of other sizes, blocks that are a whole stage, grids, one stage with registers.
FEW = ("eradio_femto", "eradio_xxxtiny_8x_ws12", "like_fastervit_0", "like_levit_256", "like_vit_medium_reg4")

ROOT = Path(__file__).parents[2]


@cache
def on_meta(name, **options):
    """Not to be changed: tests share it."""
    return timm.create_model(name, device="meta", **options)


@pytest.fixture
def femto():
    torch.manual_seed(0)
    return timm.create_model(FEMTO, num_classes=5)


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randn(2, 3, 64, 96)


def test_every_preset_is_a_model_of_timm_and_took_nobodys_name():
    assert set(timm.list_models(module="entrypoints")) >= set(PRESETS)
    assert all(model_entrypoint(name).__module__ == "backbones.entrypoints" for name in PRESETS)
    for taken in ("resnet50", FEMTO):
        before = model_entrypoint(taken)
        with pytest.raises(ValueError, match=f"^name: timm has a model '{taken}'"):
            entrypoints.register(taken, PRESETS[FEMTO])
        assert model_entrypoint(taken) is before


def test_a_winner_of_ones_own_can_be_registered():
    spec = spec_of(STAGES["basic"])
    entrypoints.register("test_winner", spec)
    assert timm.create_model("test_winner", neck=True).spec == spec
    assert timm.get_pretrained_cfg("test_winner").first_conv == "stem.0.conv"


@pytest.mark.parametrize("name", FEW)
def test_default_cfg_tells_what_the_network_is(name):
    model = on_meta(name)
    cfg, last = model.default_cfg, model.spec.stages[-1]
    side = cfg["input_size"][1]
    assert model.forward_features(torch.empty(1, *cfg["input_size"], device="meta")).shape[2:] == cfg["pool_size"]
    convolutions = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)]
    assert cfg["first_conv"] == convolutions[0]
    assert model.get_submodule(cfg["classifier"]) is model.get_classifier()
    assert model.neck is None
    assert side % (model.strides[-1] * max(last.windows) if last.window else SIZE_MULTIPLE_PX) == 0


def test_images_follow_the_windows():
    sizes = {name: image_px(PRESETS[name]) for name in PRESETS}
    assert [sizes[f"eradio_{n}"] for n in ("nano", "pico", "femto")] == [64] * 3
    assert [sizes[f"eradio_{n}"] for n in ("b", "l", "s", "xxxtiny_8x_ws12", "xxxtiny")] == [224, 224, 224, 384, 512]
    assert default_cfg(spec_of(STAGES["basic"]))["input_size"] == (3, 224, 224)
    assert image_px(spec_of(STAGES["window"])) == 64  # two tokens at stride 32
    assert sizes["like_levit_256"] == 224  # 14, 7 and 3.5 tokens a side
    attention = {"expansion": 1.0, "heads": 1, "key_width": 4}
    for grids in ((14, 2), (2, 7)):  # the grid that asks for the larger image
        stages = [StageSpec("bn_attention", 1, 8, grid=grid, **attention) for grid in grids]
        assert image_px(ArchSpec(stages, stem="patch16")) == 224
    assert image_px(replace(PRESETS["like_vit_base16"], stages=(StageSpec("vit", 1, 8, 1.0, 1, grid=16),))) == 256


def test_images_of_a_space_s_architectures_are_the_space_s():
    rng = random.Random(0)
    for space in (SPACES["micro"], SPACES["full"]):
        specs = [spec for spec in (space.sample(rng) for _ in range(60)) if len(spec.stages) > 1]
        assert {image_px(spec) for spec in specs} == {space.image_px}


def test_a_description_is_for_the_images_that_are_asked_for():
    cfg = default_cfg(PRESETS["like_shvit_s4"], 96)
    assert (cfg["input_size"], cfg["pool_size"]) == ((3, 96, 96), (2, 2))  # of stride 64, so that the sides round up


def test_neck_only_on_request(images):
    bare, whole = timm.create_model(FEMTO), timm.create_model(FEMTO, neck=True)
    assert bare.neck is None
    assert whole.neck is not None
    assert whole.spec == PRESETS[FEMTO] == build(PRESETS[FEMTO]).spec
    assert whole.encode(images).spatial.shape == (2, 128, 4, 6)
    assert bare.encode(images).spatial.shape == (2, 128, 2, 3)
    whole.prune_intermediate_layers([3])  # as features_only does
    assert whole.encode(images).spatial.shape == (2, 128, 2, 3)


def test_options_reach_the_network(images):
    model = timm.create_model(FEMTO, num_classes=3, drop_rate=0.25, drop_path_rate=0.5, in_chans=5)
    assert model.head_drop.p == 0.25
    rates = [m.drop_prob for m in model.modules() if isinstance(m, timm.layers.DropPath)]
    assert max(rates) == 0.5
    assert model(torch.randn(1, 5, 64, 64)).shape == (1, 3)
    assert model.stem[0].conv.weight.std().item() == pytest.approx((2 / (16 * 9)) ** 0.5, rel=0.2)
    with pytest.raises(InputSizeError, match="5, H, W"):
        model(images)
    with pytest.raises(TypeError, match="wings"):
        timm.create_model(FEMTO, wings=2)
    half = timm.create_model(FEMTO, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert half.eval()(images.bfloat16()).dtype == torch.bfloat16
    assert all(t.is_meta for t in [*on_meta(FEMTO).parameters(), *on_meta(FEMTO).buffers()])


def test_windows_follow_the_image_size():
    model = on_meta("eradio_b", img_size=(384, 192))
    assert [stage.window for stage in model.spec.stages] == [None, None, 6, 6]
    small = timm.create_model(FEMTO, num_classes=0, dtype=torch.float64).eval()
    small.change_resolution(96)  # in the type that it has
    assert small(torch.ones(1, 3, 96, 96, dtype=torch.float64)).isfinite().all()


@pytest.mark.parametrize("size", [(224, 352), 608])
def test_windows_stay_where_the_rule_has_small_ones(size):
    """The rule's windows of 1 token would be no attention at all."""
    model = on_meta("eradio_t", img_size=size)
    assert model.spec == entrypoints.for_classification(PRESETS["eradio_t"])
    assert model.stages[2].step == 7 * max(model.spec.stages[2].attention_ratios)
    model.change_resolution((384, 768))
    assert [stage.window for stage in model.spec.stages] == [None, None, 12, 12]


def test_windows_that_tile_the_maps_stay_as_chosen():
    """A search chooses windows of several sizes; the size of the training must not change them."""
    window = {"expansion": 2.0, "heads": 4, "pre_conv": "none", "cpb_hidden": 8}
    stages = (
        StageSpec("window", 1, 16, window=8, **window),
        StageSpec("mr_window", 1, 16, window=(4, 2), subsampling="conv", **window),
        StageSpec("window", 1, 16, window=2, **window),
    )
    model = build(ArchSpec(stages, stem="conv", stem_width=8, neck="none")).eval()
    images = torch.randn(1, 3, 64, 64)

    def windows():
        return [stage.window for stage in model.spec.stages], [stage.step for stage in model.stages]

    with torch.no_grad():
        before = model.encode(images).spatial
        chosen = windows()
        model.change_resolution(64)
        assert windows() == chosen == ([8, (4, 2), 2], [8, 8, 2])
        model.change_resolution((96, 192))
        assert windows() == ([12, (6, 3), 3], [12, 12, 3]), "as many times the rule's window of 3 as of 2 before"
        assert [block.window for block in model.stages[1].blocks] == [6, 3]
        assert not torch.equal(model.encode(images).spatial, before)
        model.change_resolution(64)
        assert windows() == chosen
        assert torch.equal(model.encode(images).spatial, before)


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax"])
def test_global_pools(femto, images, pool):
    femto.eval().reset_classifier(4, pool)
    features = femto.forward_features(images)
    mean, peak = features.mean((2, 3)), features.amax((2, 3))
    by_hand = {"avg": mean, "max": peak, "avgmax": (mean + peak) / 2, "catavgmax": torch.cat([mean, peak], 1)}
    torch.testing.assert_close(femto.forward_head(features, pre_logits=True), by_hand[pool])
    assert femto.head_hidden_size == by_hand[pool].shape[1]
    assert femto(images).shape == (2, 4)
    torch.testing.assert_close(femto.encode(images).summary, mean)
    femto.reset_classifier(0)
    torch.testing.assert_close(femto(images), by_hand[pool])


def test_without_pooling_there_is_an_answer_at_every_position(femto, images):
    model = timm.create_model(FEMTO, num_classes=0, global_pool="").eval()
    assert torch.equal(model(images), model.forward_features(images))
    femto.eval().reset_classifier(3, "")
    logits = femto(images)
    assert logits.shape == (2, 3, 2, 3)
    torch.testing.assert_close(logits[:, :, 1, 2], femto.head(femto.forward_features(images)[:, :, 1, 2]))
    with pytest.raises(ValueError, match=r"^global_pool: 'mean' is not one of 'avg', 'max'"):
        femto.reset_classifier(0, "mean")


def test_features_only_gives_the_stages(images):
    torch.manual_seed(0)
    whole = timm.create_model(FEMTO, num_classes=0).eval()
    maps = whole.forward_intermediates(images, intermediates_only=True)
    for options, wanted in (
        ({"feature_cls": "getter"}, (0, 1, 2, 3)),
        ({"feature_cls": "hook", "out_indices": (1, 2)}, (1, 2)),
        ({"feature_cls": "fx", "out_indices": (-4,)}, (0,)),
    ):
        torch.manual_seed(0)
        model = timm.create_model(FEMTO, features_only=True, **options).eval()
        got = model(images)
        assert model.feature_info.channels() == [m.shape[1] for m in got] == [whole.widths[i] for i in wanted]
        assert all(torch.equal(a, maps[i]) for a, i in zip(got, wanted, strict=True))
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in whole.parameters())


@pytest.mark.parametrize("end", [0, 2])
def test_pruned_networks_say_what_they_are(femto, images, end):
    assert femto.prune_intermediate_layers([end - 4], prune_norm=True) == [end]
    summary, spatial = femto.encode(images)
    assert summary.shape == (2, femto.summary_dim) == (2, femto.num_features)
    assert spatial.shape == (2, femto.spatial_dim, 64 // femto.spatial_stride, 96 // femto.spatial_stride)
    assert [name for name, _ in femto.stage_modules()].count("norm") == 1
    femto.reset_classifier(7, "avg")
    assert femto(images).shape == (2, 7)


@pytest.mark.parametrize("wrong", [[], [4], 0])
def test_pruning_to_nothing_is_refused(femto, wrong):
    with pytest.raises(ValueError, match=r"^indices: "):
        femto.prune_intermediate_layers(wrong)


@pytest.mark.parametrize("name", FEW)
def test_layers_are_grouped_in_the_order_of_depth(name):
    model = on_meta(name)
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    stages = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    order = [part for part, _ in model.stage_modules()]
    for found in (layers, stages):
        depth = [found[n] for part, m in model.stage_modules() for n in path_of(model, m)]
        assert depth == sorted(depth), order
        assert {n for n, group in found.items() if group == max(found.values())} == {"head.weight", "head.bias"}
    assert len(set(layers.values())) == 2 + layer_count(model)
    assert len(set(stages.values())) == 2 + len(model.stages)


def layer_count(model):
    """Blocks of these kinds are a whole stage."""
    whole = ("c2f", "light_c2f", "carrier")
    pairs = zip(model.spec.stages, model.stages, strict=True)
    return sum(spec.depth if spec.block in whole else len(stage.blocks) for spec, stage in pairs)


def path_of(model, part):
    names = {id(p): n for n, p in model.named_parameters()}
    return [names[id(p)] for p in part.parameters()]


def test_no_published_weights():
    with pytest.raises(RuntimeError, match=rf"^No pretrained weights exist for {FEMTO}[^\n]*$"):
        timm.create_model(FEMTO, pretrained=True)


def pretrained(path, name=FEMTO, **options):
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **options).eval()


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    torch.manual_seed(2)
    model, path = build(PRESETS[FEMTO]), tmp_path_factory.mktemp("weights") / "mine.safetensors"
    calibrate(model)
    save(model, path)
    return model.eval(), path


def test_own_weights_come_in_with_and_without_classifier_and_neck(distilled, images, tmp_path):
    model, path = distilled
    expected = model.encode(images)
    assert torch.equal(pretrained(path, num_classes=0)(images), expected.summary)
    assert torch.equal(pretrained(path, num_classes=0, neck=True).encode(images).spatial, expected.spatial)
    fresh = pretrained(path, num_classes=9)
    assert torch.equal(fresh.forward_head(fresh.forward_features(images), pre_logits=True), expected.summary)
    assert fresh(images).shape == (2, 9)
    assert pretrained(path)(images).shape == (2, 1000)
    one = pretrained(path, num_classes=0, in_chans=1).stem[0].conv.weight
    torch.testing.assert_close(one, model.stem[0].conv.weight.sum(1, keepdim=True))
    maps = pretrained(path, features_only=True)(images)
    assert torch.equal(maps[3], model.forward_intermediates(images, intermediates_only=True)[3])
    tuned = tmp_path / "tuned.safetensors"
    save(fresh, tuned)
    again = pretrained(tuned, num_classes=9)
    assert not torch.equal(again(images), fresh(images))  # timm drops a classifier that isn't ImageNet's
    overlay = {"file": str(tuned), "num_classes": 9}
    again = timm.create_model(FEMTO, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    assert torch.equal(again(images), fresh(images))
    assert torch.equal(load(tuned).eval()(images), fresh(images))


def test_foreign_weights_are_refused_by_name(distilled, tmp_path):
    model, path = distilled
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    altered, pickled = tmp_path / "altered.safetensors", tmp_path / "pickled.pth"
    altered.write_bytes(data)
    torch.save(model.state_dict(), pickled)
    for name, file, words in (
        ("eradio_pico", path, f"holds architecture {model.spec.arch_id}"),
        (FEMTO, altered, "altered"),
        (FEMTO, pickled, "not a .safetensors file"),
    ):
        with pytest.raises(WeightsError, match=f"^{re.escape(str(file))}: .*{words}"):
            pretrained(file, name, num_classes=0)


def test_no_weight_is_silently_random(distilled, tmp_path):
    model, _ = distilled
    state = model.state_dict()
    gone = {key: value for key, value in state.items() if key != "stages.0.blocks.0.merge.conv.weight"}
    assert len(gone) == len(state) - 1
    neckless = tmp_path / "neckless.safetensors"
    save(timm.create_model(FEMTO, num_classes=0), neckless)
    for given, words, options in (
        ({"state_dict": gone}, "they lack 'stages.0.blocks.0.merge.conv.weight'", {}),
        ({"state_dict": state | {"other": torch.ones(1)}}, "they have 'other' of another architecture", {}),
        ({"file": str(neckless)}, "they lack 'neck", {"neck": True}),
    ):
        for where in ("pretrained_cfg_overlay", "pretrained_cfg"):
            with pytest.raises(WeightsError, match=words):
                timm.create_model(FEMTO, pretrained=True, num_classes=9, **{where: given}, **options)


def test_a_file_is_checked_wherever_timm_is_told_of_it(distilled, tmp_path):
    model, _ = distilled
    pickled = tmp_path / "pickled.pth"
    torch.save(model.state_dict(), pickled)
    told = {"file": str(pickled), "num_classes": 0}
    for own in (told, timm.models.PretrainedCfg(**told)):
        with pytest.raises(WeightsError, match=r"not a \.safetensors file"):
            timm.create_model(FEMTO, pretrained=True, num_classes=0, pretrained_cfg=own)


def test_timms_reparameterisation_is_our_deploy_form(femto, images):
    calibrate(femto)
    expected = femto.eval()(images)
    fused = reparameterize_model(femto)
    with torch.no_grad():
        torch.testing.assert_close(fused(images), expected, atol=1e-5, rtol=1e-4)
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in fused.modules()) <= 1  # the last norm follows no layer


@pytest.fixture
def tiny():
    """The family's layout with one layer a stage: compilers take seconds for more."""
    torch.manual_seed(0)
    options = {"subsampling": "pool", "pre_conv": "depthwise", "cpb_hidden": 8}
    spec = eradio(8, depths=(1, 1, 1, 1), window=2, in_dim=8, heads=(2, 2), **options)
    return entrypoints.create(spec, num_classes=3)


def test_exported_with_a_dynamic_batch(tiny):
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(tiny.eval(), (torch.randn(2, 3, 96, 160),), dynamic_shapes={"x": {0: batch}})
    five = torch.randn(5, 3, 96, 160)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(five), tiny(five), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_compiled_without_a_break(tiny, images):
    compiled = torch.compile(tiny.train(), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), tiny(images))
    compiled(images).sum().backward()
    assert all(p.grad is not None for p in tiny.parameters())


TRAINED = {kind: STAGES[kind] for kind in KINDS} | {
    "layer scale": replace(STAGES["window depthwise"], layer_scale=0.1, qkv_bias=True)
}


@pytest.mark.parametrize("kind", TRAINED)
def test_autocast_to_bfloat16_trains(kind):
    """Frozen norms answer in fp32, other layers in bfloat16."""
    torch.manual_seed(0)
    model = entrypoints.create(spec_of(TRAINED[kind]), num_classes=3)
    model = model if kind == "carrier" else freeze_batch_norm_2d(model)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(2, 3, 64, 64))
    logits.float().square().sum().backward()
    assert logits.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.slow
def test_importing_the_package_registers_the_presets():
    program = "import backbones, timm; print(timm.is_model('eradio_b'), timm.is_model('backbone_nas'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["True", "True"]
