"""Every block kind: shapes, gradients, and the deploy form."""

import copy

import pytest
import torch

from backbones import fuse
from backbones.build import build_stage
from tests.backbones.stages import STAGES

SIZES = ((8, 8), (5, 3), (2, 2), (1, 6), (7, 4))


def trained(module):
    """`module` in eval mode with norms and weights that are far from their initial ones, so that folding shows."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return module.eval()


@pytest.mark.parametrize("kind", STAGES)
@pytest.mark.parametrize("size", SIZES)
def test_shape_is_kept_at_any_size(kind, size):
    x = torch.randn(2, 16, *size)
    assert build_stage(STAGES[kind]).eval()(x).shape == x.shape


@pytest.mark.parametrize("kind", STAGES)
def test_gradient_reaches_every_parameter_and_the_input(kind):
    torch.manual_seed(0)
    stage = build_stage(STAGES[kind])
    x = torch.randn(2, 16, 8, 4, requires_grad=True)
    (stage(x) * torch.randn_like(x)).sum().backward()
    dead = [name for name, p in stage.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert dead == []
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize("kind", STAGES)
def test_fused_equals_unfused(kind):
    stage = trained(build_stage(STAGES[kind]))
    before = copy.deepcopy(stage.state_dict())
    fused = fuse(stage)
    for size in SIZES:
        x = torch.randn(2, 16, *size)
        with torch.no_grad():
            torch.testing.assert_close(fused(x), stage(x), atol=1e-5, rtol=1e-5)
    assert not [m for m in fused.modules() if isinstance(m, torch.nn.BatchNorm2d) and kind != "pool"]
    assert all(torch.equal(value, before[key]) for key, value in stage.state_dict().items())


def test_fusing_twice_changes_nothing():
    stage = trained(build_stage(STAGES["mr_window conv"]))
    x = torch.randn(2, 16, 8, 4)
    torch.testing.assert_close(fuse(fuse(stage))(x), fuse(stage)(x), atol=0, rtol=0)


@pytest.mark.parametrize("kind", STAGES)
def test_images_of_a_batch_do_not_mix_in_eval_mode(kind):
    stage = trained(build_stage(STAGES[kind]))
    x = torch.randn(3, 16, 4, 6)
    torch.testing.assert_close(stage(x)[1:2], stage(x[1:2]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", STAGES)
def test_memory_layout_does_not_matter(kind):
    stage = trained(build_stage(STAGES[kind]))
    x = torch.randn(2, 16, 4, 6)
    y = stage(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(y, stage(x), atol=1e-5, rtol=1e-5)
