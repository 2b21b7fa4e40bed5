"""Run models by torch.compile."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch._dynamo.utils import counters

from nas.measure.runtime_spec import ArmError
from nas.measure.runtimes.contract import Runner, arm_errors, encoder, synchronize

MODES = {
    "compiled": "default",
    "reduce-overhead": "reduce-overhead",
    "max-autotune-no-cudagraphs": "max-autotune-no-cudagraphs",
}
# With CUDA graphs, the first call compiles and warms up, the second records, the third replays.
FIRST_CALLS = {"cpu": 1, "cuda": 3}
_number = itertools.count()


def compiled(runtime: str, model: nn.Module, images: Tensor) -> Runner:
    """Compile `model` with Inductor for exactly these shapes; Inductor's cache on disk shortens `compile_s`.

    Raises:
        ArmError: Nothing was compiled, or a compiler or Triton is missing.
    """
    start = time.perf_counter()
    counts_before = _counts()
    run = _compile(encoder(model), runtime)
    # Dynamo guards on the mode, and callers measure in inference mode.
    with (
        arm_errors(runtime, TorchDynamoException),
        torch.inference_mode(),
        torch._dynamo.config.patch(suppress_errors=False),
    ):
        for _ in range(FIRST_CALLS.get(images.device.type, 1)):
            run(images)
        synchronize(images.device)
    notes = _compile_notes(runtime, {name: count - counts_before[name] for name, count in _counts().items()})
    return Runner(run, time.perf_counter() - start, notes)


def _compile(call: Callable[[Tensor], Any], runtime: str) -> Callable[[Tensor], Any]:
    compiled_call: Callable[[Tensor], Any] = torch.compile(_with_own_code(call), mode=MODES[runtime], dynamic=False)
    if runtime != "reduce-overhead":
        return compiled_call

    def run(images: Tensor) -> Any:
        # Otherwise, while outputs are still referenced, a second network's graph continues that of the first.
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return compiled_call(images)

    return run


def _with_own_code(call: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """Wrap `call` in a function with a code object of its own.

    Dynamo caches a few graphs per code object and silently runs the ninth network eagerly, because all backbones share
    one `encode`. `torch._dynamo.reset()` is no alternative: it drops the graphs of a living reference, which would then
    be compiled again while it is timed.
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


def _compile_notes(runtime: str, new: dict[str, int]) -> tuple[str, ...]:
    """Return notes on a compilation from the changes of Dynamo's counters.

    Raises:
        ArmError: The network was not compiled, or not into a CUDA graph where the runtime needs one.
    """
    if not new["graphs"]:
        raise ArmError(f"runtime: {runtime}: nothing was compiled, it would run eagerly; see TORCH_LOGS=dynamo")
    if runtime == "reduce-overhead" and new["skips"]:
        raise ArmError(f"runtime: {runtime}: no CUDA graph could be recorded; see TORCH_LOGS=cudagraphs")
    return (f"{new['breaks']} breaks in the compiled graph, where operators run eagerly",) if new["breaks"] else ()
