"""Check a runtime on a tiny network: whether it runs here at all, and what to do where it does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from nas.cli import one_line
from nas.extras import install_command
from nas.machine import cpu_count
from nas.measure.runtime_spec import Arm
from nas.measure.runtime_traits import RUNTIMES
from nas.study.config import SearchConfig
from nas.validation import ConfigError

WRONG_OUTPUTS = "its outputs are wrong"
_MAX_REASON = 160  # characters of a library's message


@dataclass(frozen=True)
class RuntimeReading:
    """A small network on a runtime: seconds to prepare it, and whether its outputs are those of eager fp32."""

    runtime: str
    seconds: float
    correct: bool


def read_runtime(runtime: str, device: str, precision: str) -> RuntimeReading:
    """Prepare a small network for a runtime, run it, and compare its outputs.

    Raises:
        ArmError: The runtime cannot run here; the message has the reason.
    """
    import torch
    from torch import nn

    from nas.measure.output_check import check, expected_outputs
    from nas.measure.prepare import prepare_subject

    where = torch.device(device)
    torch.manual_seed(0)
    torch.set_num_threads(cpu_count())
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)).eval()
    images = torch.randn(2, 3, 32, 32)
    arm = Arm(runtime, precision, form="unfused")
    start = time.perf_counter()
    subject = prepare_subject(model, arm, (images,), len(images), where)
    outcome = check(subject.run, subject.buffers[0], expected_outputs(model, images.to(where), precision))
    return RuntimeReading(runtime, time.perf_counter() - start, outcome.correct)


def check_runtime(config: SearchConfig, progress: Callable[[str, int, int], None], resume: bool = False) -> str:
    """Run a tiny network on the study's runtime where that compiles, and return a line about it.

    A compiler or headers may be missing. Without this check, the teachers would run first, and then each measurement
    would fail.

    Args:
        config: Settings of the search.
        progress: Shows the stage.
        resume: Whether the study has begun, so that its runtime stays.

    Returns:
        "" for a runtime that compiles nothing.

    Raises:
        ConfigError: The runtime does not work here; the message has the remedy.
    """
    arm = Arm.parse(config.runtime)
    if not arm.traits.slow_to_prepare:
        return ""
    from nas.measure.device_lock import shared_device
    from nas.measure.forkserver import ForkServer
    from nas.measure.memory import out_of_memory
    from nas.measure.service import COMPILING_LIMIT_S

    progress(stage := f"checking the runtime {arm.runtime}+{arm.precision}", 0, 1)
    asked = (arm.runtime, config.device, arm.precision)
    try:
        with shared_device(config.device), ForkServer(["nas.measure.prepare"]) as server:
            reading = server.run(read_runtime, *asked, limit_s=COMPILING_LIMIT_S)
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        if out_of_memory(error):  # other processes have it now: nothing is wrong with the runtime
            return f"{arm.runtime}: not checked, {one_line(error)}"
        reason = one_line(error).removeprefix("runtime: ").removeprefix(f"{arm.runtime} can't run this network here: ")
    else:
        progress(stage, 1, 1)
        if reading.correct:
            return f"{arm.runtime} works ({reading.seconds:.1f} s for a tiny network)"
        reason = WRONG_OUTPUTS
    remedy, found = runtime_remedy(arm.runtime, reason), reason[:_MAX_REASON].strip()
    advice = "" if remedy in found else f"; {remedy}"
    if not resume:
        advice += f"; until then give --runtime eager+{arm.precision}"
    raise ConfigError(f"--runtime: {arm.runtime} does not work here: {found}{advice}")


def runtime_remedy(runtime: str, reason: str) -> str:
    """Return what to do where a runtime does not run a small network.

    Args:
        runtime: One of RUNTIMES.
        reason: Why it does not.
    """
    if reason.startswith("no result after"):
        return f"try again on an idle machine; if there is no result again, {runtime_remedy(runtime, '')}"
    if "pip install" in reason:
        return reason[reason.index("pip install") :]
    if "compute capability" in reason:
        return reason.rpartition("; ")[2]
    if extra := RUNTIMES[runtime].extra:
        return f"reinstall it: {install_command(extra)}"
    if reason == WRONG_OUTPUTS or "ended by SIG" in reason:
        return "install other versions of PyTorch and of the compiler, or choose another --runtime"
    return "install compilers and Python's headers: apt install gcc g++ python3-dev"
