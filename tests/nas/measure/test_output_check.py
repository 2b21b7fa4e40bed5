"""Outputs of a network on its runtime are compared with those of fp32 eager."""

import copy

import pytest
import torch

from backbones import build
from nas.measure.output_check import (
    LARGEST_TOLERANCE,
    TOLERANCES,
    check,
    expected_outputs,
    has_untrained_norms,
    reference_outputs,
)
from nas.measure.pair import measure_pair
from nas.measure.prepare import Setting
from nas.measure.runtime_spec import Arm
from search_space import ArchSpec, StageSpec, preset


class Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def encode(self, images):
        spatial = self.conv(images)
        return spatial.mean((2, 3)), spatial


def test_the_worst_output_is_what_counts():
    net, images = Two(), torch.randn(2, 3, 8, 8)
    wanted = expected_outputs(net, images, "fp32")

    def summary_is_off(x):
        summary, spatial = net.encode(x)
        return summary * 1.1, spatial

    right, off = check(net.encode, images, wanted), check(summary_is_off, images, wanted)
    assert right.correct
    assert right.error < 1e-6
    assert off.error == pytest.approx(0.1, rel=1e-3)
    assert not off.correct
    assert not check(lambda x: net.encode(x)[::-1], images, wanted).correct
    assert not check(lambda x: (net.encode(x)[0] * torch.nan, net.encode(x)[1]), images, wanted).correct


def test_reference_outputs_are_of_fp32_and_not_of_tf32():
    """PyTorch lets cuDNN use TF32 for fp32 from Ampere on, and a program may let matrix products, too."""
    found = []

    class Asks(Two):
        def encode(self, images):
            cudnn = torch.backends.cudnn
            found.append((cudnn.enabled, cudnn.allow_tf32, torch.get_float32_matmul_precision()))
            return super().encode(images)

    torch.set_float32_matmul_precision("high")
    try:
        reference_outputs(Asks(), torch.randn(2, 3, 8, 8))
        assert set(found) == {(True, False, "highest")}
        assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == (True, "high")
    finally:
        torch.set_float32_matmul_precision("highest")


def test_rounding_is_within_the_tolerance_of_its_precision():
    net, images = Two(), torch.randn(4, 3, 16, 16)
    wanted = expected_outputs(net, images, "bf16")
    half = Two().bfloat16()
    half.load_state_dict(net.state_dict())
    found = check(half.encode, images.bfloat16(), wanted)
    assert TOLERANCES["fp32"] < 0.01 < TOLERANCES["bf16"]
    assert wanted.tolerance == TOLERANCES["bf16"]
    assert found.correct
    assert 1e-4 < found.error < 0.03


class Amplifying(torch.nn.Module):
    """A convolution whose outputs are so large that rounding them changes their sine."""

    def __init__(self, times):
        super().__init__()
        self.conv, self.times = torch.nn.Conv2d(3, 4, 3), times

    def encode(self, images):
        return torch.sin(self.times * self.conv(images))


@pytest.mark.parametrize(("times", "amplifies"), [(1.0, False), (40.0, True), (1e5, True)])
def test_weights_that_amplify_rounding_are_no_wrong_output(times, amplifies):
    torch.manual_seed(0)
    net, images = Amplifying(times), torch.randn(2, 3, 16, 16)
    expected = expected_outputs(net, images, "bf16")
    assert (expected.tolerance > TOLERANCES["bf16"]) is amplifies
    half = copy.deepcopy(net).bfloat16()
    found = check(half.encode, images.bfloat16(), expected)
    assert found.correct is (times < 100), "an error of 1.4 is that of unrelated outputs"
    assert expected.tolerance <= LARGEST_TOLERANCE
    assert not check(lambda x: 0 * net.encode(x), images, expected).correct
    assert not check(lambda x: net.encode(x.flip(0)), images, expected).correct


def test_deep_attention_with_batch_norm_is_no_wrong_output_in_bf16():
    """It is the 24th random architecture of the space full; bf16 moves its map at 224 px by a quarter."""
    sizes = {"depth": 9, "width": 256, "expansion": 2.0, "heads": 4, "grid": 14, "key_width": 16}
    stage = {"block": "bn_attention", **sizes}
    spec = ArchSpec.from_dict({"stages": [stage], "stem": "patch16", "downsampling": "conv", "neck": "none"})
    torch.manual_seed(0)
    setting = Setting("cpu", 1, 224, Arm("eager", "bf16"), budget_s=0.1)
    record = measure_pair(build(spec), build(preset("eradio_femto")), setting, name_of_reference="eradio_femto").record
    assert record.output_error > 2 * TOLERANCES["bf16"]
    assert record.verdict != "wrong output"
    assert any("because the weights amplify rounding" in note for note in record.notes)


class Hard(torch.nn.Module):
    """A choice between two values that are so close that rounding may swap them."""

    def __init__(self, first):
        super().__init__()
        self.values = torch.nn.Parameter(torch.tensor([first, 1.0]))

    def encode(self, images):
        return torch.nn.functional.one_hot(self.values.argmax(), 2).float().expand(len(images), 2)


@pytest.mark.parametrize(("first", "tolerance"), [(1.002, LARGEST_TOLERANCE), (1.01, 0.05)])
def test_the_largest_of_some_perturbations_counts(first, tolerance):
    """A softmax that is nearly hard amplifies some of them only."""
    assert expected_outputs(Hard(first), torch.randn(2, 3, 8, 8), "bf16").tolerance == tolerance


def overflowing():
    """Return a network whose map passes 65,504 where its norms are new."""
    torch.manual_seed(0)
    return build(ArchSpec((StageSpec("repdw", 12, 16, expansion=2.0),), stem="conv16", neck="none"))


def fp16(model):
    setting = Setting("cpu", 2, 64, Arm("eager", "fp16"), budget_s=0.1)
    return measure_pair(model, build(preset("eradio_femto")), setting, name_of_reference="eradio_femto").record


def test_statistics_of_a_new_network_that_overflow_fp16_are_no_wrong_output():
    model = overflowing()
    before = copy.deepcopy(model.state_dict())
    record = fp16(model)
    assert record.verdict != "wrong output"
    assert 0 < record.output_error < 2 * TOLERANCES["fp16"]
    assert any("BatchNorm" in note for note in record.notes)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_network_that_was_trained_keeps_its_statistics():
    model = overflowing()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.num_batches_tracked += 1
    record = fp16(model)
    assert record.verdict == "wrong output"
    assert record.output_error is None


def test_what_a_precision_computes_otherwise_is_wrong_with_statistics_of_a_batch_too():
    class Other(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = torch.nn.Conv2d(3, 8, 3, 2), torch.nn.BatchNorm2d(8)

        def encode(self, images):
            y = self.norm(self.conv(images))
            return y if images.dtype == torch.float32 else y.flip(1)

    assert has_untrained_norms(Other())
    assert not has_untrained_norms(Two())
    record = fp16(Other())
    assert record.verdict == "wrong output"
    assert any("outputs differed by 1." in note for note in record.notes)


def test_no_weights_are_perturbed_for_outputs_within_the_tolerance_of_their_precision(monkeypatch):
    """It would take longer than the outputs did, for every network of a search."""

    def asked(*_):
        raise AssertionError("asked")

    monkeypatch.setattr("nas.measure.output_check.perturbation_error", asked)
    net, images = Two(), torch.randn(2, 3, 8, 8)
    expected = expected_outputs(net, images, "fp32")
    assert check(net.encode, images, expected).correct
    assert not check(lambda x: torch.nan * net.encode(x)[1], images, expected_outputs(net.conv, images, "fp32")).correct
    with pytest.raises(AssertionError, match="asked"):
        check(lambda x: [2 * part for part in net.encode(x)], images, expected)
