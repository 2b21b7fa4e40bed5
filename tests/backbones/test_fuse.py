"""The deploy form, and what makes inference and training fast: all of it the same function."""

import copy

import pytest
import torch
from timm.layers import convert_sync_batchnorm
from timm.utils.model import freeze_batch_norm_2d
from torch.nn import functional as F

from backbones import build, fuse, resolve
from backbones.build import build_stage
from backbones.layers import attention_kernel, fp32_fallback, stage
from search_space import PRESETS
from tests.backbones.builders import STAGES, randomized, spec_of

FEMTO = PRESETS["eradio_femto"]


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("arch", ["eradio_femto", "timm:resnetv2_18"])
def test_a_fused_network_stays_in_eval_mode_in_a_model_that_trains(arch):
    """Norms that follow no convolution are left; in training mode they would follow the batches."""
    fused, images = fuse(randomized(resolve(arch)[1])), torch.randn(2, 3, 64, 64)
    whole = torch.nn.Sequential(fused)
    with torch.no_grad():
        before = fused.encode(images)
        for _ in range(2):
            after = whole.train()[0].encode(images)
            assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
        assert whole.training
        assert not any(module.training for module in fused.modules())
        assert all(torch.equal(a, b) for a, b in zip(copy.deepcopy(fused).train().encode(images), before, strict=True))


@pytest.mark.parametrize("change", [convert_sync_batchnorm, freeze_batch_norm_2d])
@pytest.mark.parametrize("kind", ["repdw", "single_head", "neck"])
def test_norms_that_timm_has_replaced_are_folded_like_others(kind, change):
    model = build(FEMTO) if kind == "neck" else build(spec_of(STAGES[kind]))
    model, images = randomized(model), torch.randn(2, 3, 64, 64)
    replaced = change(copy.deepcopy(model)).eval()
    with torch.no_grad():
        for actual, expected in zip(fuse(replaced).encode(images), fuse(model).encode(images), strict=True):
            close(actual, expected)


@pytest.mark.parametrize("kind", ["window depthwise", "mr_window pool", "c2f", "carrier", "swin", "vit windows"])
def test_images_by_the_cacheful_or_all_at_once(kind, monkeypatch):
    module, x = randomized(build_stage(STAGES[kind])), torch.randn(5, 16, 7, 4)
    with torch.no_grad():
        whole = module(x)
        monkeypatch.setattr(stage, "CHUNK_VALUES", 2 * 16 * 8 * 4)
        sizes = []
        module.blocks[0].register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
        close(module(x), whole)
        assert max(sizes) < 5
        assert sum(sizes) == 5


@pytest.mark.parametrize("kind", ["c2f", "bn_attention", "vit windows"])
def test_a_trace_without_gradients_takes_any_batch(kind, monkeypatch):
    monkeypatch.setattr(stage, "CHUNK_VALUES", 2 * 16 * 8 * 8)
    module = randomized(build_stage(STAGES[kind]))
    with torch.no_grad():
        traced = torch.jit.trace(module, torch.randn(3, 16, 8, 8), check_trace=False)
        for batch in (1, 3, 8):
            x = torch.randn(batch, 16, 8, 8)
            close(traced(x), module(x))


def test_batch_statistics_are_those_of_all_images(monkeypatch):
    monkeypatch.setattr(stage, "CHUNK_VALUES", 1)
    module, x = build_stage(STAGES["c2f"]).train(), torch.randn(4, 16, 4, 4)
    sizes = []
    module.blocks[0].register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    with torch.no_grad():
        module(x)
    assert sizes == [4]


@pytest.mark.parametrize("instructions", ["AVX2", "AVX512"])
def test_bfloat16_is_widened_only_where_the_cpu_lacks_it(instructions, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(64, 8).bfloat16().eval(), torch.randn(4, 64).bfloat16()
    seen = []
    linear.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].dtype))
    y = fp32_fallback.fp32_fallback(linear, x)
    assert seen == [torch.float32 if instructions == "AVX2" else torch.bfloat16]
    assert y.dtype == linear.weight.dtype == torch.bfloat16
    if instructions == "AVX2":
        assert torch.equal(y, F.linear(x.float(), linear.weight.float(), linear.bias.float()).bfloat16())


@pytest.mark.parametrize("kind", STAGES)
@torch.no_grad()
def test_a_stage_in_bfloat16_can_be_fused(kind):
    torch.manual_seed(0)
    module, x = randomized(build_stage(STAGES[kind])), torch.randn(2, 16, 8, 4)
    expected = module(x)
    fused = fuse(module.bfloat16())
    assert {t.dtype for t in fused.state_dict().values() if t.is_floating_point()} == {torch.bfloat16}
    assert (fused(x.bfloat16()) - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("queries", [9, 4])
@pytest.mark.parametrize("chunk", [1, 200, 2**20])
def test_gradients_of_attention_and_its_bias_equal_those_of_the_open_form(queries, chunk, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(attention_kernel, "CHUNK_WEIGHTS", chunk)
    shapes = ((5, 2, queries, 8), (5, 2, 9, 8), (5, 2, 9, 8), (1, 2, queries, 9))
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    q, k, v, bias = inputs
    weights = torch.randn(shapes[0])
    wanted = ((q @ k.transpose(-1, -2)) * 8**-0.5 + bias).softmax(-1) @ v
    got = attention_kernel.attend(*inputs)
    close(got, wanted)
    for ours, theirs in zip(*(torch.autograd.grad((y * weights).sum(), inputs) for y in (got, wanted)), strict=True):
        close(ours, theirs)
