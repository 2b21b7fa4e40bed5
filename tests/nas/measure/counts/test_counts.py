"""Counts are exact: hand-derived numbers for single operators, published numbers for whole nets."""

import copy
import random
import subprocess
import sys
from dataclasses import replace

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from backbones import build
from backbones.skip_init import skip_init
from nas.measure.counts import compare_counters, count, totals
from nas.measure.counts.macs import EncodeModule, MacCountingMode, evaluating
from nas.measure.counts.shapes import RULES
from search_space import PRESETS, SPACES, ArchSpec
from search_space.arch import EXPANDING_DOWNSAMPLINGS
from tests.backbones.builders import KINDS, STAGES


class Attention(nn.Module):
    """Self-attention over 16 tokens (the pixels of a 4x4 map) with 2 heads of 8; no other matrix product."""

    def __init__(self, mask: bool) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.zeros(16, 16)) if mask else None

    def forward(self, images):
        tokens = images[:, :1].flatten(2).expand(-1, 16, -1).reshape(-1, 2, 8, 16).transpose(2, 3)
        return F.scaled_dot_product_attention(tokens, tokens, tokens, attn_mask=self.mask)


class TwoPart(nn.Module):
    """A net with `encode`: the head is not part of what is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.body = nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU())
        self.head = nn.Linear(8, 100)

    def encode(self, images):
        spatial = self.body(self.stem(images))
        return spatial.mean((2, 3)), spatial

    def forward(self, images):
        return self.head(self.encode(images)[0])


STEM = 16 * 16 * 8 * 3 * 9  # output pixels x output channels x input channels x kernel
DEPTHWISE = 16 * 16 * 8 * 9


def test_convolutions_by_hand_and_head_left_out():
    counts = count(TwoPart(), 32)
    assert counts.macs == STEM + DEPTHWISE
    assert counts.params == (3 * 8 * 9 + 8) + 16 + (8 * 9 + 8) + (8 * 100 + 100)
    assert counts.module_macs[""] == counts.macs
    assert counts.module_macs["stem"] == STEM
    assert counts.module_macs["body"] == counts.module_macs["body.1"] == DEPTHWISE
    assert counts.module_macs["body.0"] == counts.module_macs["head"] == 0


@pytest.mark.parametrize(("mask", "inference"), [(False, False), (True, True)])
def test_attention_is_exact_with_and_without_a_mask(mask, inference):
    with torch.inference_mode(inference):
        assert count(Attention(mask), 4).macs == 2 * 2 * 16 * 16 * 8  # two products x heads x tokens² x head width


@pytest.mark.parametrize("mask", [None, torch.zeros(16, 20)])
def test_fused_attention_of_the_cpu_is_counted_where_it_is_not_taken_apart(mask):
    query, key = torch.zeros(2, 3, 16, 8), torch.zeros(2, 3, 20, 8)
    with torch.no_grad(), MacCountingMode() as tally:
        F.scaled_dot_product_attention(query, key, key, attn_mask=mask)
    assert tally.macs == (2 * 3) * 2 * 16 * 20 * 8  # batch x heads; two products


def test_transformer_layer_fast_path_is_counted():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Flatten(2), Transpose(), layer)
    tokens, width = 16, 16
    attention = 2 * tokens * tokens * width + 4 * tokens * width * width
    assert count(model, 4).macs == tokens * 3 * 16 + attention + 2 * tokens * width * 32


class Transpose(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


def test_the_model_is_left_as_it_was():
    model = TwoPart().train()
    before = copy.deepcopy(model.state_dict())
    compare_counters(model, 32)
    assert model.training
    assert list(model.state_dict()) == list(before)  # thop would leave total_ops buffers
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))


def test_three_counters_on_published_nets():
    gmacs = {}
    for name, model in {
        "resnet50": torchvision.models.resnet50(),
        "vit_b16": timm.create_model("vit_base_patch16_224"),
        "swin_t": torchvision.models.swin_t(),
    }.items():
        gmacs[name] = compare_counters(model, 224)
    numbers = {name: [round(c.macs / 1e9, 3) for c in counters] for name, counters in gmacs.items()}
    assert numbers == {
        "resnet50": [4.089, 4.112, 4.134],
        "vit_b16": [17.564, 16.867, 16.849],
        "swin_t": [4.491, 4.509, 2.978],
    }
    assert "adds batch_norm" in gmacs["resnet50"][1].reason
    assert "leaves out scaled_dot_product_attention (12 calls)" in gmacs["vit_b16"][1].reason
    assert "leaves out 0.7153 G" in gmacs["vit_b16"][2].reason  # 12 layers x 2 x 197² x 768
    assert "leaves out 1.5" in gmacs["swin_t"][2].reason


def by_torch(model, resolution):
    """Shapes of the outputs, and MACs of the whole and of every module by torch's own counter, each block run."""
    with FlopCounterMode(display=False) as counter:
        shapes = call(model, resolution)
    flops = {name: sum(operators.values()) for name, operators in counter.get_flop_counts().items()}
    names = {name: f"EncodeModule.model.{name}" if name else "Global" for name, _ in model.named_modules()}
    return shapes, {name: flops.get(tracked, 0) // 2 for name, tracked in names.items()}


def call(model, resolution):
    encoder = EncodeModule(model)
    with evaluating(encoder):
        return [tuple(output.shape) for output in encoder(torch.empty(1, 3, resolution, resolution, device="meta"))]


def check_against_torch(model, resolution):
    counts = count(model, resolution)
    shapes, macs = by_torch(model, resolution)
    assert counts.module_macs == macs
    assert counts.macs == macs[""]
    assert counts.params == sum(p.numel() for p in model.parameters())
    with MacCountingMode() as tally:
        assert call(model, resolution) == shapes
    assert counts.uncounted == dict(tally.elements.most_common())
    return counts


@pytest.mark.parametrize("name", SPACES)
def test_specs_are_counted_as_if_each_block_ran(name):
    rng = random.Random(0)
    for _ in range(4):
        spec, resolution = SPACES[name].sample(rng), 64 if name == "micro" else 224
        with skip_init():
            model = build(spec)
        counts = check_against_torch(model, resolution)
        assert totals(spec, resolution) == (counts.macs, counts.params)
        names = {id(module): name for name, module in model.named_modules()}
        assert sum(counts.module_macs[names[id(part)]] for _, part in model.stage_modules()) == counts.macs


@pytest.mark.parametrize("name", ["eradio_l_fullres", "like_convnext_tiny", "like_fastervit_0", "like_dinov3_small16"])
def test_presets_are_the_sum_of_their_parts(name):
    with skip_init():
        model = build(PRESETS[name])
    counts = count(model, 160)
    assert totals(PRESETS[name], 160) == (counts.macs, counts.params)


@pytest.mark.parametrize("kind", KINDS)
def test_each_further_block_of_a_stage_costs_what_the_second_does(kind):
    for depth in (STAGES[kind].global_every or 1, 5):
        spec = ArchSpec((replace(STAGES[kind], depth=depth),) * 2, stem="patch")
        with skip_init():
            counts = count(build(spec), 96)
        assert totals(spec, 96) == (counts.macs, counts.params)


def test_downsampling_layers_of_each_kind_and_expansion_are_counted():
    for kind in EXPANDING_DOWNSAMPLINGS:
        for expansion in (2.0, 3.0):
            options = {"downsampling": kind, "downsampling_expansion": expansion}
            spec = ArchSpec((STAGES["pool"],) * 3, stem="patch", **options)
            with skip_init():
                counts = count(build(spec), 96)
            assert totals(spec, 96) == (counts.macs, counts.params)


@pytest.mark.parametrize(
    "name",
    [
        *("resnet26t", "convnext_atto", "mobilevitv2_050"),
        *("swin_tiny_patch4_window7_224", "levit_128s", "crossvit_tiny_240"),
    ],
)
def test_networks_of_timm_are_counted_as_if_each_block_ran(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    check_against_torch(model, model.default_cfg["input_size"][-1])


def layouts(*tensors):
    """What torch may read: type, shape, and strides of the sides that are longer than 1."""
    return [
        (t.dtype, t.shape, [step for step, side in zip(t.stride(), t.shape, strict=True) if side > 1]) for t in tensors
    ]


def maps(dtype=torch.float32):
    plain = torch.empty(2, 6, 5, 4, dtype=dtype, device="meta")
    channels_last = plain.contiguous(memory_format=torch.channels_last)
    return plain, channels_last, plain.permute(0, 3, 1, 2), plain[:, :, ::2], channels_last[:1], plain[:, :4]


def calls(x):
    """Usual and unusual calls of every operator with a rule: (operator, arguments)."""
    aten = torch.ops.aten
    channels, width = torch.empty(x.shape[1], device="meta"), torch.empty(x.shape[-1], device="meta")
    for name in ("gelu", "hardswish", "relu", "relu_", "sigmoid", "silu", "silu_"):
        yield getattr(aten, name).default, (x,)
    for other in (x, torch.empty(x.shape, device="meta"), x[:, :1], x[:, :, :1, :1], width, x.to(torch.int64)):
        yield from ((getattr(aten, name).Tensor, (x, other)) for name in ("add", "sub", "mul"))
    yield aten.mul.Scalar, (x, 0.5)
    yield from (
        (operator, (x, -1, *rest))
        for operator, *rest in ((aten._softmax.default, False), (aten._safe_softmax.default,))
    )
    yield aten.native_batch_norm.default, (x, channels, channels, channels, channels, False, 0.1, 1e-5)
    yield aten.native_batch_norm.default, (x, None, None, None, None, True, 0.1, 1e-5)
    yield aten.native_layer_norm.default, (x, [x.shape[-1]], width, None, 1e-5)
    yield aten.native_layer_norm.default, (x, list(x.shape[-2:]), None, None, 1e-5)
    yield from ((aten.mean.dim, (x, dims, keep)) for dims in ([2, 3], [-1], [1], []) for keep in (False, True))
    yield aten.addmm.default, (width, x[0, 0], torch.empty(x.shape[-1], x.shape[-1], device="meta"))
    for groups, stride, padding, dilation in ((1, 1, 1, 1), (1, 2, 0, 1), (x.shape[1], 1, 2, 2)):
        weight = torch.empty(2 * x.shape[1], x.shape[1] // groups, 3, 2, device="meta")
        yield (
            aten.convolution.default,
            (x, weight, None, [stride, 1], [padding, 0], [dilation, 1], False, [0, 0], groups),
        )
        yield (
            (
                aten.convolution.default,
                (x, weight, None, [stride, 1], [padding, 0], [1, 1], True, [0, 0], 1),
            )
            if x.shape[1] == weight.shape[0]
            else (aten.relu.default, (x,))
        )
    for name in ("upsample_bicubic2d", "upsample_bilinear2d"):
        yield getattr(aten, name).default, (x, [7, 3], False)
    yield aten.upsample_nearest2d.default, (x, [7, 3])


def test_rules_give_what_torch_gives():
    met = set()
    for x in (*maps(), *maps(torch.bfloat16), *maps(torch.int64)):
        for operator, arguments in calls(x):
            try:
                expected = operator(*arguments)
            except (RuntimeError, TypeError, NotImplementedError, IndexError):  # not for whole numbers, or mixed types
                continue
            made = RULES[operator](*arguments)
            if made is not None:
                met.add(operator)
                pairs = ((o if isinstance(o, tuple) else (o,)) for o in (made, expected))
                made, expected = (layouts(*o) for o in pairs)
                assert made == expected, (
                    operator,
                    [a if not isinstance(a, torch.Tensor) else layouts(a) for a in arguments],
                )
    assert met == set(RULES)


@pytest.mark.slow
def test_a_search_imports_no_other_counter() -> None:
    """Importing fvcore takes a while, and shows a warning of PyTorch about its scripted losses."""
    code = "import sys, nas.measure.counts; print(sorted({'fvcore', 'thop'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
