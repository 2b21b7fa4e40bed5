"""Runtimes: each gives what eager gives, runs what its name says, or refuses in one line."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from backbones import build, fuse, resolve
from nas.measure import prepare
from nas.measure.output_check import expected_outputs
from nas.measure.prepare import Setting
from nas.measure.runtime_spec import Arm, ArmError
from nas.measure.runtime_traits import RUNTIMES
from nas.measure.runtimes import RUNNERS, contract, runner
from search_space import ArchSpec
from search_space.stage import BLOCK_FIELDS, StageSpec
from tests.nas.measure.networks import (
    Net,
    Out,
    check,
    has_onnxruntime,
    images,
    needs_onnxruntime,
    ready,
    refusal,
)

NETS = [("eradio_pico", 64), ("eradio_xxxtiny", 224), ("timm:resnet18", 64), ("timm:vit_tiny_patch16_224", 224)]


def test_every_runtime_that_an_arm_can_name_is_there():
    assert tuple(RUNNERS) == tuple(RUNTIMES)
    assert all(name in refusal("tvm", Net(), images()) for name in RUNTIMES)


@pytest.mark.parametrize("runtime", ["eager", "compiled", pytest.param("onnxruntime", marks=needs_onnxruntime)])
@pytest.mark.parametrize("layout", [torch.channels_last, pytest.param(torch.contiguous_format, marks=pytest.mark.slow)])
def test_gives_what_eager_gives(runtime, layout):
    net, x = ready(Net()), images(layout=layout)
    made = runner(runtime, net, x)
    check(made.run, net, x)
    check(made.run, net, images(seed=1, layout=layout))
    assert (made.compile_s == 0) == (runtime == "eager")


@pytest.mark.slow
@pytest.mark.parametrize(
    "runtime", ["compiled", "max-autotune-no-cudagraphs", pytest.param("onnxruntime", marks=needs_onnxruntime)]
)
@pytest.mark.parametrize(
    ("name", "px"),
    [pytest.param(*net, marks=() if net[0] == "eradio_pico" else pytest.mark.exhaustive) for net in NETS],
)
def test_real_networks(runtime, name, px):
    if runtime != "onnxruntime" and name not in ("eradio_pico", "timm:resnet18"):
        pytest.skip("a minute of compiling")
    torch.manual_seed(0)
    net, x = fuse(resolve(name)[1]), images(px=px)
    check(runner(runtime, net, x).run, net, x)


def small(block: str) -> ArchSpec:
    """Return an architecture of one block, whose windows do not divide its map of 8 x 8."""
    values = {
        "expansion": 2.0, "heads": 2, "pre_conv": "depthwise", "window": 3, "cpb_hidden": 8, "subsampling": "pool",
        "group_width": 8, "squeeze": 0.25, "grid": 4, "key_width": 8, "kernel": 5, "global_every": 2, "registers": 2,
    }  # fmt: skip
    read = {name: value for name, value in values.items() if name in BLOCK_FIELDS[block]}
    stage = StageSpec(block, 2 if "global_every" in read else 1, 16, **read)
    return ArchSpec((stage,), stem="patch", summary="token" if stage.registers else None)


def runtimes_here() -> list[str]:
    """Return the runtimes of this machine; max-autotune only compiles longer than compiled."""
    cuda = torch.cuda.is_available()
    here = {"onnxruntime": has_onnxruntime(), "reduce-overhead": cuda, "tensorrt": cuda and find_spec("tensorrt")}
    return [name for name in RUNTIMES if here.get(name, name != "max-autotune-no-cudagraphs")]


def marks_of(name: str) -> list[Any]:
    """Return the marks of a block in a runtime: CI compiles few blocks."""
    if name.endswith(("eager", "pool-onnxruntime")):
        return []
    in_ci = name.endswith("onnxruntime") or name.startswith(("c2f", "mr_window"))
    return [pytest.mark.slow] if in_ci else [pytest.mark.slow, pytest.mark.exhaustive]


def blocks_in_runtimes() -> list[Any]:
    return [
        pytest.param(block, runtime, id=name, marks=marks_of(name))
        for block in BLOCK_FIELDS
        for runtime in runtimes_here()
        for name in (f"{block}-{runtime}",)
    ]


@pytest.mark.parametrize(("block", "runtime"), blocks_in_runtimes())
def test_every_block_runs_in_every_runtime_of_this_machine(block, runtime):
    """As a search prepares it: copies, fused."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, setting = build(small(block)), Setting(device.type, 2, 32, Arm.parse(runtime))
    inputs = prepare.images(setting)
    expected = expected_outputs(model, inputs[0].to(device), setting.arm.precision)
    pair = prepare.prepare_pair((model, model), inputs, expected, setting, device)
    assert pair.output_check.correct


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("runtime", [name for name in RUNTIMES if name != "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_cuda(runtime, dtype):
    net, x = ready(fuse(resolve("eradio_pico")[1]).cuda(), dtype), images(px=64).cuda().to(dtype)
    try:
        made = runner(runtime, net, x)
    except ArmError as error:
        pytest.skip(str(error))
    for seed in range(3):
        check(made.run, net, images(px=64, seed=seed).cuda().to(dtype), 1e-2 if dtype == torch.float32 else 5e-2)


# torch.compile


def test_networks_alike_are_compiled_each_for_itself_and_stay_so():
    """Nine networks of one class: more than Dynamo keeps for one piece of code."""
    x, nets = images(), [ready(Net(float(i))) for i in range(9)]
    runs = [runner("compiled", net, x).run for net in nets]
    graphs = counters["stats"]["unique_graphs"]
    for run, net in zip(runs, nets, strict=True):
        check(run, net, x)
    assert counters["stats"]["unique_graphs"] == graphs, "a later network made an earlier one compile again"


def test_what_was_not_compiled_is_not_called_compiled():
    net = ready(Net())
    net.encode = torch.compiler.disable(net.encode)
    assert "nothing was compiled" in refusal("compiled", net, images())


def test_a_broken_graph_is_told():
    class Broken(Net):
        def encode(self, images):
            spatial = self.conv(images)
            torch._dynamo.graph_break()
            return Out(spatial, self.conv(images))

    net = ready(Broken())
    made = runner("compiled", net, images())
    check(made.run, net, images())
    assert "breaks in the compiled graph" in made.notes[0]


def test_a_missing_compiler_is_named():
    with torch._inductor.config.patch({"cpp.cxx": (None, "/no/such/g++"), "force_disable_caches": True}):
        assert "C++ compiler" in refusal("compiled", ready(Net()), images(px=40))


def test_cuda_graphs_need_cuda():
    assert "CUDA" in refusal("reduce-overhead", ready(Net()), images())


def test_a_networks_own_error_stays_what_it_is():
    class Choosy(Net):
        def encode(self, images):
            raise KeyError("32 px")

    with pytest.raises(KeyError, match="32 px"):
        runner("compiled", ready(Choosy()), images())


# Refusals


def test_a_refusal_is_one_line_of_the_innermost_cause():
    with pytest.raises(ArmError, match=r"^runtime: any can't run this network here: no kernel$"):  # noqa: SIM117
        with contract.arm_errors("any", RuntimeError):
            raise RuntimeError("how to report this\n") from ValueError("no kernel\nat 0x0")


@pytest.mark.parametrize("name", ["onnxruntime", "onnx"])
@needs_onnxruntime
def test_what_is_not_installed_is_named_with_its_extra(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    message = refusal("onnxruntime", ready(Net()), images())
    assert name in message
    assert "'.[onnx]'" in message


# TensorRT: its package and device are not here; its refusals are. What it is told to do: test_tensorrt.py.


def test_tensorrt_wants_cuda():
    assert "CUDA" in refusal("tensorrt", ready(Net()), images())


def test_tensorrt_wants_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    somewhere = SimpleNamespace(device=torch.device("cuda", 0), dtype=torch.float16)
    assert "'.[tensorrt]'" in refusal("tensorrt", ready(Net()), somewhere)
