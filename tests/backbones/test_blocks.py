"""Every block kind: shapes, gradients, MACs by hand, export, and the deploy form."""

import copy
import re

import pytest
import torch

from backbones import fuse, layers
from backbones.build import BLOCK_BUILDERS, build_stage
from nas.measure.counts import count
from search_space import BLOCK_FIELDS
from tests.backbones.builders import KINDS, STAGES, randomized
from tests.backbones.macs import macs

SIZES = ((8, 8), (5, 3), (2, 2), (1, 6), (7, 4), (1, 1))
# Those that add what they compute to what they got: nothing remains where the paths are dropped.
RESIDUAL = (
    *("basic", "bottleneck", "mbconv", "fused_mbconv", "convnext", "pool", "linear_attention", "bn_attention", "swin"),
    "maxvit",
)


class Alone(torch.nn.Module):
    """A stage behind images: their first channel, as often as the stage is wide. No arithmetic of its own."""

    def __init__(self, stage):
        super().__init__()
        self.stage = stage

    def forward(self, images):
        return self.stage(images[:, :1].expand(-1, 16, -1, -1))


def test_every_block_is_tested_and_can_be_built():
    assert set(BLOCK_BUILDERS) == set(BLOCK_FIELDS) == {spec.block for spec in STAGES.values()}
    read = {(s.block, field) for s in STAGES.values() for field in BLOCK_FIELDS[s.block] if getattr(s, field)}
    new = {"group_width", "squeeze", "key_width", "kernel", "global_every", "registers", "positions"}
    assert {(block, field) for block in BLOCK_FIELDS for field in BLOCK_FIELDS[block] & new} <= read


def test_the_table_of_blocks_names_the_class_of_each():
    table = dict(re.findall(r"^\| `(\w+)` +\| `(\w+)`", layers.__doc__, re.MULTILINE))
    last = {spec.block: type(build_stage(spec).blocks[-1]).__name__ for spec in STAGES.values()}
    assert table == last


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
    stage = randomized(build_stage(STAGES[kind]))
    before = copy.deepcopy(stage.state_dict())
    fused = fuse(stage)
    for size in SIZES:
        x = torch.randn(2, 16, *size)
        with torch.no_grad():
            y = stage(x)
            torch.testing.assert_close(fused(x), y, atol=1e-5, rtol=1e-5)
        assert y.shape == x.shape
    assert not [m for m in fused.modules() if isinstance(m, torch.nn.BatchNorm2d) and kind != "pool"]
    assert not any(p.requires_grad for p in fused.parameters())
    assert all(p.requires_grad for p in stage.parameters())
    assert all(torch.equal(value, before[key]) for key, value in stage.state_dict().items())


def test_fusing_twice_changes_nothing():
    stage = randomized(build_stage(STAGES["mr_window conv"]))
    x = torch.randn(2, 16, 8, 4)
    torch.testing.assert_close(fuse(fuse(stage))(x), fuse(stage)(x), atol=0, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_neither_the_batch_nor_the_memory_layout_matters_in_eval_mode(kind):
    stage = randomized(build_stage(STAGES[kind]))
    x = torch.randn(3, 16, 4, 6)
    y = stage(x)
    torch.testing.assert_close(y[1:2], stage(x[1:2]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(stage(x.contiguous(memory_format=torch.channels_last)), y, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", STAGES)
def test_macs_are_those_of_the_definition(kind):
    with torch.device("meta"):
        stage = build_stage(STAGES[kind])
    for side in (8, 7):
        assert count(Alone(stage), side).macs == macs(STAGES[kind], side)


FAST = ("mr_window conv", "swin", "vit windows")


@pytest.mark.parametrize(
    "kind", [kind if kind in FAST else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_export_gives_the_same(kind):
    stage, x = randomized(build_stage(STAGES[kind])), torch.randn(2, 16, 5, 4)
    exported = torch.export.export(stage, (x,), strict=False).module()
    torch.testing.assert_close(exported(x), stage(x), atol=1e-6, rtol=1e-6)


def decides(stage):
    return any(getattr(module, "decides_by_size", False) for module in stage.modules())


def test_blocks_of_windows_decide_by_the_size_of_their_map():
    names = {kind for kind, spec in STAGES.items() if decides(build_stage(spec))}
    assert names == {kind for kind, spec in STAGES.items() if spec.window is not None}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if STAGES[kind].window is None])
@pytest.mark.filterwarnings("ignore")  # the tracer warns of decisions that change nothing
def test_a_trace_of_a_block_that_decides_nothing_takes_any_size(kind):
    stage = randomized(build_stage(STAGES[kind])).requires_grad_(False)
    with torch.enable_grad():
        traced = torch.jit.trace(stage, torch.randn(2, 16, 1, 4), check_trace=False)
    for size in (*SIZES, (16, 12)):
        x = torch.randn(3, 16, *size)
        torch.testing.assert_close(traced(x), stage(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", RESIDUAL)
def test_dropped_paths_leave_the_input(kind):
    stage, x = build_stage(STAGES[kind], (1.0, 1.0)).train(), torch.rand(2, 16, 6, 5)
    assert torch.equal(stage(x), x)
