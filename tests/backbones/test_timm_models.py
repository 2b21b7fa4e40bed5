"""timm's networks as backbones: one small network of each of timm's modules."""

import copy

import pytest
import timm
import torch
from torch import nn

from backbones import TimmBackbone, build_network, folding, fuse, resolve
from backbones.folding import batch_norms_left, fold_batch_norms
from search_space import SpecError

FEW = (  # NHWC maps, a hybrid, tokens beside the image's, two branches, no head
    *("resnet10t", "swin_tiny_patch4_window7_224", "vit_tiny_r_s16_p8_224", "deit_tiny_distilled_patch16_224"),
    *("crossvit_9_240", "gmlp_ti16_224"),
)
ODD = (
    *("convnext_atto", "efficientformerv2_s0", "efficientvit_b0", "fastvit_t8", "hiera_tiny_224"),
    *("vit_tiny_patch16_224", "qwen3_vit_88m_enc", "coatnet_pico_rw_224", "mobilenetv3_small_050"),
    "xcit_nano_12_p16_224",
)
REST = tuple(
    """
    beit_base_patch16_224 botnet26t_256 repvgg_a0 mobileone_s0 cait_xxs24_224 coat_lite_tiny convit_tiny
    convmixer_768_32 cpubone_nano csatv2 cs3darknet_s cspnext_tiny davit_tiny deepseek_vit_412m densenet121 dla46_c
    dpn48b edgenext_xx_small efficientformer_l1 mnasnet_small efficientvim_m1 efficientvit_m0 eva02_tiny_patch14_224
    fasternet_t0 focalnet_tiny_srf gcvit_xxtiny ghostnet_050 hardcorenas_a hgnetv2_b0 sam2_hiera_tiny
    hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small
    levit_128s lowformer_b0 mambaout_femto poolformer_s12 mobilenetv5_300m_enc mobilevit_xxs mvitv2_tiny
    naflexvit_base_patch16_gap nasnetalarge nest_tiny nextvit_small nf_regnet_b0 pit_ti_224 pnasnet5large pvt_v2_b0
    qwen3_vit_88m rdnet_tiny regnetx_002 repghostnet_050 repvit_m0_9 res2net50_14w_8s resnest14d resnetv2_18 rexnet_100
    selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs swinv2_tiny_window8_256
    swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_patch16_224 tresnet_m twins_pcpvt_small vgg11 visformer_tiny
    vit_srelpos_small_patch16_224 samvit_base_patch16_224 vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw
    legacy_xception xception41
    """.split()  # noqa: SIM905 (a name a line would be ninety)
)


def on_meta(name):
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    with torch.device("meta"):
        return resolve(f"timm:{name}")[1].eval()


def check_declared(model):
    images = torch.empty(2, 3, model.input_px, model.input_px, device="meta")
    summary, spatial = model.encode(images)
    assert summary.shape == (2, model.summary_dim)
    assert spatial.shape[:2] == (2, model.spatial_dim)
    # Some networks pad or crop: a cell more or less.
    assert all(abs(side - model.input_px / model.spatial_stride) < 2 for side in spatial.shape[2:])
    last, maps = model.forward_intermediates(images)
    assert tuple(m.shape[1] for m in maps) == model.widths == tuple(i["num_chs"] for i in model.feature_info)
    assert model.forward_head(last).shape == model(images).shape == summary.shape
    assert len(model.strides) == len(model.widths)


@pytest.mark.parametrize("name", [*FEW, *(pytest.param(name, marks=pytest.mark.slow) for name in ODD)])
def test_networks_give_what_they_declare(name):
    check_declared(on_meta(name))


# CI tries every fourth of them.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.exhaustive) if i % 4 else name for i, name in enumerate(REST)]
)
def test_networks_of_every_module_give_what_they_declare(name):
    check_declared(on_meta(name))


@pytest.mark.slow
def test_every_module_of_timm_is_tried():
    models = {module: set(timm.list_models(module=module)) for module in timm.list_modules()}
    ours = {"entrypoints", "small_mvit", "gemma4_vit"}  # the second is an experiment's, the last is below
    assert [m for m, names in models.items() if m not in ours and not names & {*FEW, *ODD, *REST}] == []


@pytest.mark.slow
def test_gemmas_encoder_asks_for_values():
    model = resolve("timm:gemma4_vit_167m")[1].eval()  # not on the meta device
    with torch.no_grad():
        summary, spatial = model.encode(torch.zeros(1, 3, 96, 96))
    assert summary.shape == (1, model.summary_dim)
    assert spatial.shape == (1, model.spatial_dim, 6, 6)


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_a_neck_gives_a_map_of_stride_16_and_leaves_the_summary(name):
    torch.manual_seed(0)
    plain = TimmBackbone(name).eval()
    model = TimmBackbone(name, 48).eval()
    model.model.load_state_dict(plain.model.state_dict())
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        summary, spatial = model.encode(images)
        assert torch.equal(summary, plain.encode(images).summary)
    assert spatial.shape == (2, 48, 4, 6)
    assert (model.spatial_dim, model.spatial_stride, model.summary_dim) == (48, 16, plain.summary_dim)
    assert isinstance(build_network(model.spec), TimmBackbone)
    assert build_network(model.spec).spec == model.spec != plain.spec
    assert model.stage_modules()[-1][0] == "neck"
    assert {name for name in model.state_dict() if not name.startswith("neck.")} == set(plain.state_dict())


def test_a_network_without_a_map_of_stride_16_gets_no_neck():
    with pytest.raises(SpecError, match=r"a neck needs maps of stride 16, 32 and so on; it has 32$"):
        TimmBackbone("vit_small_patch32_224", 48)


def statistics(model):
    """As after training: fresh statistics would fold to nothing."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


# How many BatchNorms stay: before a convolution (densenet121, resnetv2_18), behind an activation (convmixer).
LEFT = {
    **{"resnet10t": 0, "efficientnet_lite0": 0, "regnety_002": 0, "mobilenetv3_small_050": 0, "repvit_m0_9": 0},
    **{"mobileone_s0": 0, "repghostnet_050": 0, "levit_128s": 0, "resnetv2_18": 9, "dla46_c": 0},
}

FUSED = ("resnet10t", "repvit_m0_9", "levit_128s", "resnetv2_18")


@pytest.mark.parametrize(
    "name", [name if name in FUSED else pytest.param(name, marks=pytest.mark.slow) for name in LEFT]
)
def test_fused_networks_are_the_same_function_and_tell_what_stays(name):
    torch.manual_seed(0)
    model = TimmBackbone(name, 48).eval()  # all of its maps of stride 16 and more, and the neck
    statistics(model)
    assert model.batch_norms_left is None
    fused = fuse(model)
    images = torch.randn(2, 3, model.input_px, model.input_px)
    with torch.no_grad():
        expected, found = model.encode(images), fused.encode(images)
    for old, new in zip(expected, found, strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-4 * float(old.abs().max()))
    assert fused.batch_norms_left == batch_norms_left(fused) == LEFT[name]
    assert batch_norms_left(model) > fused.batch_norms_left, "the original was changed"


def test_networks_of_half_precision_are_fused_as_well_as_their_rounding():
    torch.manual_seed(0)
    model = resolve("timm:resnet10t")[1].eval()
    statistics(model)
    fused = fuse(copy.deepcopy(model).bfloat16())
    assert fused.batch_norms_left == 0
    assert {t.dtype for t in fused.state_dict().values() if t.is_floating_point()} == {torch.bfloat16}
    images = torch.randn(2, 3, model.input_px, model.input_px)
    with torch.no_grad():
        expected, found = model.encode(images), fused.encode(images.bfloat16())
    for exact, rounded in zip(expected, found, strict=True):
        assert (rounded - exact).norm() < 0.05 * exact.norm()


class TwoReaders(nn.Module):
    """A convolution whose output is normed and also added: what a fold would change."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y.flatten(2).unsqueeze(-1).view_as(y)


def test_a_fold_that_changes_the_output_is_refused(monkeypatch):
    model = TwoReaders().eval()
    statistics(model)
    wrong = folding.Pair("conv", "norm")
    monkeypatch.setattr(folding, "traced_pairs", lambda model, call, images: ([wrong], call(images)))
    with pytest.raises(RuntimeError, match="changed"):
        fold_batch_norms(model, model, torch.randn(1, 3, 4, 4))


def test_a_convolution_that_is_read_twice_keeps_its_norm():
    model = TwoReaders().eval()
    statistics(model)
    x = torch.randn(1, 3, 4, 4)
    expected = model(x)
    fold_batch_norms(model, model, x)
    assert batch_norms_left(model) == 1
    assert torch.equal(model(x), expected)
