"""torch.compile, in the modes that arms name."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch._dynamo.utils import counters

from nas.measure.arms import ArmError
from nas.measure.runtimes.contract import Runner, arm_errors, encoder, finish

MODES = {
    "compiled": "default",
    "reduce-overhead": "reduce-overhead",
    "max-autotune-no-cudagraphs": "max-autotune-no-cudagraphs",
}
FIRST_CALLS = {
    "cpu": 1,
    "cuda": 3,
}  # CUDA graphs: one call compiles and warms up, the second records, the third replays
_number = itertools.count()


def compiled(runtime: str, model: nn.Module, images: Tensor) -> Runner:
    """Compile `model` with Inductor for exactly these shapes; Inductor's cache on disk shortens `compile_s`.

    `reduce-overhead` uses CUDA graphs and would be `compiled` under another name on a CPU: refused there, as is a
    network of which nothing was compiled. ArmError names what is missing (a compiler, Triton).
    """
    if runtime == "reduce-overhead" and images.device.type != "cuda":
        raise ArmError(f"arm: reduce-overhead uses CUDA graphs; on {images.device.type} choose compiled")
    start = time.perf_counter()
    before = _counts()
    run = _compile(encoder(model), runtime)
    # Dynamo's guards know the mode: callers measure in inference mode.
    with (
        arm_errors(runtime, TorchDynamoException),
        torch.inference_mode(),
        torch._dynamo.config.patch(suppress_errors=False),
    ):
        for _ in range(FIRST_CALLS.get(images.device.type, 1)):
            run(images)
        finish(images.device)
    notes = _checked(runtime, {name: count - before[name] for name, count in _counts().items()})
    return Runner(run, time.perf_counter() - start, notes)


def _compile(call: Callable[[Tensor], Any], runtime: str) -> Callable[[Tensor], Any]:
    quick: Callable[[Tensor], Any] = torch.compile(_alone(call), mode=MODES[runtime], dynamic=False)
    if runtime != "reduce-overhead":
        return quick

    def run(images: Tensor) -> Any:
        # Else outputs that somebody still holds make a second network's graph a continuation of the first one's.
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return quick(images)

    return run


def _alone(call: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """`call` behind a code object that no other network has.

    Dynamo keeps what it compiled by code object, a few graphs each, and runs the ninth network eagerly without a word:
    all of ours have the same `encode`. `torch._dynamo.reset()` would take the graphs of a living reference away, which
    then compiles again while it is timed.
    """

    def encode(images: Tensor) -> Any:
        return call(images)

    encode.__code__ = encode.__code__.replace(co_name=f"encode_{next(_number)}")
    return encode


def _counts() -> dict[str, int]:
    return {
        "graphs": counters["stats"]["unique_graphs"],
        "breaks": sum(counters["graph_break"].values()),
        "skips": counters["inductor"]["cudagraph_skips"],
    }


def _checked(runtime: str, new: dict[str, int]) -> tuple[str, ...]:
    """What was counted while a network was compiled, against what the runtime's name promises: notes, or ArmError."""
    if not new["graphs"]:
        raise ArmError(f"arm: {runtime}: nothing was compiled, the network would run eagerly; see TORCH_LOGS=dynamo")
    if runtime == "reduce-overhead" and new["skips"]:
        raise ArmError(f"arm: {runtime}: no CUDA graph could be recorded; see TORCH_LOGS=cudagraphs")
    return (f"{new['breaks']} breaks in the compiled graph: what lies at them runs eagerly",) if new["breaks"] else ()
