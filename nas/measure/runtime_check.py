"""Check a runtime on a tiny network: whether it runs here at all, and what to do where it does not."""

from __future__ import annotations

import time
from dataclasses import dataclass

from nas.cli import cpu_count
from nas.extras import install_command
from nas.measure.arms import Arm
from nas.measure.runtime_traits import RUNTIMES

WRONG_OUTPUTS = "its outputs are wrong"


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
