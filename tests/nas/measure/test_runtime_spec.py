"""Arms are named by words, in any order; what is left open comes from a base."""

import random
from contextlib import nullcontext

import pytest
import torch

from backbones import build, fuse
from nas.measure.prepare import apply_arm
from nas.measure.runtime_spec import Arm, ArmError, check_runs_here, default_arm
from search_space import SPACES, preset


@pytest.mark.parametrize(
    ("text", "arm"),
    [
        ("eager", Arm()),
        ("bf16", Arm(precision="bf16")),
        ("nchw+compiled", Arm("compiled", layout="nchw")),
        ("unfused+fp16+reduce-overhead+nchw", Arm("reduce-overhead", "fp16", "nchw", "unfused")),
    ],
)
def test_words_make_an_arm_and_its_name_makes_it_again(text, arm):
    assert Arm.parse(text) == arm
    assert Arm.parse(str(arm), Arm("compiled", "bf16", "nchw", "unfused")) == arm


def test_what_is_left_open_comes_from_the_base():
    assert Arm.parse("nchw", Arm("compiled", "bf16")) == Arm("compiled", "bf16", "nchw")


@pytest.mark.parametrize(
    ("runtime", "on_cpu", "on_cuda"),
    [
        ("eager", True, True),
        ("compiled", False, True),
        ("reduce-overhead", False, False),
        ("tensorrt", False, False),
    ],
)
def test_the_memory_of_tensors_is_known_where_pytorch_serves_them(runtime, on_cpu, on_cuda):
    for device, known in (("cpu", on_cpu), ("cuda", on_cuda)):
        assert ("peak_memory_mib" not in Arm(runtime).unknown_fields(device)) is known


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fast", "runtime: 'fast' in 'fast': choose words from eager, compiled"),
        ("eager+", "runtime: '' in 'eager\\+'"),
        ("eager+compiled", "'eager\\+compiled': eager and compiled are both a runtime; name one"),
    ],
)
def test_bad_words_are_one_line(text, message):
    with pytest.raises(ArmError, match=message):
        Arm.parse(text)


def test_defaults_of_the_devices():
    assert str(default_arm("cpu")) == "eager+fp32+channels-last+fused"
    assert str(default_arm("cuda")) == "compiled+bf16+channels-last+fused"


@pytest.mark.parametrize(
    ("capability", "default", "refused"),
    [
        ((6, 1), "eager+fp32", {"compiled+fp16", "compiled+bf16", "tensorrt+bf16", "reduce-overhead+fp32"}),
        ((7, 5), "compiled+fp16", {"compiled+bf16", "tensorrt+bf16"}),
        ((8, 0), "compiled+bf16", set()),
    ],
)
def test_older_gpus_get_a_runtime_that_they_compile(monkeypatch, capability, default, refused):
    monkeypatch.setattr("nas.measure.runtime_spec.compute_capability", lambda: capability)
    assert str(default_arm("cuda")) == f"{default}+channels-last+fused"
    others = {"eager+fp32", "eager+bf16", "onnxruntime+fp16"}
    for words in {*others, "compiled+fp16", "compiled+bf16", "tensorrt+bf16", "reduce-overhead+fp32"}:
        arm = Arm.parse(words)
        with pytest.raises(ArmError, match="needs compute capability") if words in refused else nullcontext():
            check_runs_here("cuda", arm.runtime, arm.precision)


@pytest.mark.parametrize(
    ("capability", "words", "reason"),
    [
        (
            (6, 1),
            "compiled+fp32",
            "torch.compile needs compute capability 7.0, .*; choose eager.fp32 or onnxruntime.fp32",
        ),
        ((7, 5), "tensorrt+bf16", "TensorRT needs compute capability 8.0 for bf16, .* 7.5; choose tensorrt.fp16"),
    ],
)
def test_a_refusal_says_which_library_needs_a_newer_gpu(monkeypatch, capability, words, reason):
    monkeypatch.setattr("nas.measure.runtime_spec.compute_capability", lambda: capability)
    arm = Arm.parse(words)
    with pytest.raises(ArmError, match=reason):
        check_runs_here("cuda", arm.runtime, arm.precision)


@pytest.mark.parametrize("layout", ["channels-last", "nchw"])
def test_a_network_runs_in_the_layout_that_is_measured(layout):
    """A convolution whose weights and images lie in different layouts copies one of them."""
    spaces, rng = ("micro", "laptop", "full"), random.Random(0)
    specs = [preset("eradio_femto"), *(SPACES[name].sample(rng) for name in spaces)]
    memory_format = torch.channels_last if layout == "channels-last" else torch.contiguous_format
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    for spec in specs:
        model = build(spec)
        seen = []
        deployed = apply_arm(model, Arm(layout=layout), torch.device("cpu"))
        stem = next(part for part in deployed.modules() if isinstance(part, torch.nn.Conv2d))
        stem.register_forward_hook(lambda part, given, out, seen=seen: seen.extend([*given, out, part.weight]))
        with torch.inference_mode():
            out = deployed.encode(images)
            wanted = fuse(model).encode(images)
        assert all(tensor.is_contiguous(memory_format=memory_format) for tensor in seen), spec.arch_id
        assert len(seen) == 3
        torch.testing.assert_close(out, wanted, atol=1e-3, rtol=1e-3)  # other kernels round otherwise
