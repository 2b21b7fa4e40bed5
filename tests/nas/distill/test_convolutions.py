"""Convolutions of a training on a CPU: the same numbers as PyTorch's, without the operators that are slow there."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from backbones import build
from nas.distill import trainer
from nas.distill.convolutions import TrainedConv2d, train_convolutions
from nas.distill.trainer import Distiller
from nas.study.config import DistillConfig
from search_space import preset
from tests.nas.distill.targets_builder import targets

# Width, side of the map, and the convolution's arguments after its widths.
SLOW_ONES = {
    "patches": (6, 8, (10, 2, 2)),
    "patches with a bias": (6, 8, (10, 4, 4, 0, 1, 1, True)),
    "dense, the kernel larger than the map": (6, 2, (10, 3, 1, 1)),
    "dense with a stride": (6, 5, (10, 3, 2, 1)),
    "depthwise 3x3 on 2x2": (8, 2, (8, 3, 1, 1, 1, 8)),
    "depthwise 7x7 on 4x4": (8, 4, (8, 7, 1, 3, 1, 8, True)),
    "depthwise 5x5 on 3x3": (8, 3, (8, 5, 1, 2, 1, 8)),
    "depthwise 5x5 on 9x9": (8, 9, (8, 5, 1, 2, 1, 8)),
}
SLOW_IN_BF16 = [name for name in SLOW_ONES if name.startswith("depthwise")]


class WeightGradients(TorchDispatchMode):
    """Keeps the shapes of maps for which PyTorch's own gradient of a convolution's weights is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default and args[-1][1]:
            self.shapes.append(tuple(args[1].shape))
        return func(*args, **(kwargs or {}))


def convolution(width: int, arguments: tuple[Any, ...]) -> nn.Conv2d:
    out, kernel, stride, padding, dilation, groups, bias = (*arguments, *(1, 0, 1, 1, False)[len(arguments) - 2 :])
    torch.manual_seed(0)
    conv = nn.Conv2d(width, out, kernel, stride, padding, dilation, groups, bias)
    return conv.to(memory_format=torch.channels_last)


def run(conv: nn.Conv2d, images: Tensor) -> list[Tensor]:
    """Return the output and the gradients of images and parameters."""
    images = images.clone(memory_format=torch.channels_last).requires_grad_()
    y = conv(images)
    y.backward(torch.linspace(-1, 1, y.numel()).view_as(y).to(y).sin())
    return [y.detach(), *(x.grad for x in (images, *conv.parameters()) if x.grad is not None)]


@pytest.mark.parametrize("name", SLOW_ONES)
def test_outputs_and_gradients_are_pytorchs_but_not_its_slow_gradient_of_the_weights(name: str) -> None:
    width, side, arguments = SLOW_ONES[name]
    conv = convolution(width, arguments)
    images = torch.randn(3, width, side, side, generator=torch.Generator().manual_seed(1))
    exact = run(copy.deepcopy(conv).double(), images.double())
    train_convolutions(conv)
    with WeightGradients() as asked:
        found = run(conv, images)
    assert tuple(images.shape) not in asked.shapes
    assert len(found) == len(exact)
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SLOW_IN_BF16)
def test_gradients_of_depthwise_kernels_in_bf16(name: str) -> None:
    width, side, arguments = SLOW_ONES[name]
    conv = convolution(width, arguments)
    images = torch.randn(3, width, side, side, generator=torch.Generator().manual_seed(1))
    exact = run(copy.deepcopy(conv).double(), images.double())
    train_convolutions(conv)
    with WeightGradients() as asked, torch.autocast("cpu", torch.bfloat16):
        found = run(conv, images)
    assert not asked.shapes
    assert [x.dtype for x in found] == [torch.bfloat16, *[torch.float32] * (len(found) - 1)]
    for ours, theirs in zip(found, exact, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 0.01


def test_only_a_training_takes_other_ways() -> None:
    plain = convolution(6, (10, 2, 2))
    conv = copy.deepcopy(plain)
    train_convolutions(conv)
    images = torch.randn(3, 6, 4, 4).contiguous(memory_format=torch.channels_last)
    assert conv(images).grad_fn.name() == plain(images).grad_fn.name()  # images need no gradient
    images.requires_grad_()
    assert conv(images).grad_fn.name() != plain(images).grad_fn.name()
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(images).grad_fn.name() == plain(images).grad_fn.name()
    with torch.no_grad():
        assert torch.equal(conv(images), plain(images))


def test_unusual_convolutions_stay_as_they_are() -> None:
    class Own(nn.Conv2d):
        pass

    unusual = [
        nn.Conv2d(4, 4, 3, dilation=2), nn.Conv2d(4, 4, (3, 1)), nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), Own(4, 4, 3),
    ]  # fmt: skip
    types = [type(conv) for conv in unusual]
    train_convolutions(nn.Sequential(*unusual))
    assert [type(conv) for conv in unusual] == types


def test_a_training_has_the_losses_of_one_with_pytorchs_convolutions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DistillConfig(img_size=32, batch_size=16, warmup_steps=2, precision="fp32", rung_steps=(6,))

    def trained() -> Distiller:
        torch.manual_seed(0)
        distiller = Distiller(build(preset("eradio_femto")), targets(tmp_path), config, seed=0)
        distiller.train_until(6)
        return distiller

    ours = trained()
    monkeypatch.setattr(trainer, "train_convolutions", lambda module: None)
    theirs = trained()
    kinds = [{type(m) for m in net.modules() if isinstance(m, nn.Conv2d)} for net in (ours.student, ours.averaged)]
    assert kinds == [{TrainedConv2d}, {nn.Conv2d}]
    for a, b in zip(ours.losses, theirs.losses, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
