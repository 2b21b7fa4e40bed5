"""Throughput, latency and memory of one backbone, timed against a reference backbone in the same process."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from backbones.folding import batch_norms_left
from nas.measure.environment import device_name, torch_device
from nas.measure.interleave import Comparison, compare
from nas.measure.memory import peak_memory_mib
from nas.measure.timers import Call, Timer, timer_for
from nas.records import Measurement

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
BUFFERS = 3  # rotated, so that no input stays in a cache from the call before
LATENCY_SHARE = 0.15  # of the budget that is left when the throughput's turn comes


@dataclass(frozen=True)
class Arm:
    """A backbone on its device, ready to be called: `batch` images a call, inputs rotated."""

    model: nn.Module
    buffers: tuple[Tensor, ...]  # each (batch, 3, resolution, resolution)

    def call(self) -> Call:
        """A call that encodes the next input buffer."""
        encode: Callable[[Tensor], Any] = getattr(self.model, "encode", self.model)
        turn = itertools.cycle(self.buffers)
        return lambda: encode(next(turn))

    def one_image(self) -> Arm:
        """The same at batch 1."""
        return Arm(self.model, tuple(b[:1].clone(memory_format=torch.channels_last) for b in self.buffers))


def measure_pair(
    candidate: nn.Module,
    reference: nn.Module,
    *,
    name_of_reference: str,
    device: str,
    batch: int,
    resolution: int,
    precision: str = "fp32",
    budget_s: float,
    seed: int,
    timer: Timer | None = None,
) -> Measurement:
    """Measure `candidate` beside `reference`; both are called by `encode` (or forward) and left as they are.

    Fuse both before: the arm says so, and how many BatchNorms could not be folded. They run as copies in channels-last
    layout and inference mode, on as many threads as torch has.
    `budget_s` bounds what is timed, from the second call on, but for a least of one block; `seed` decides inputs and
    order.
    Take `nas.measure.exclusive.measuring` around it. Raises ValueError for an impossible setting.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: {precision!r} is unknown; choices: {', '.join(PRECISIONS)}")
    for name, value in (("batch", batch), ("resolution", resolution), ("budget_s", budget_s)):
        if value <= 0:
            raise ValueError(f"{name}: {value} must be positive")
    where = torch_device(device)
    timer = timer or timer_for(where)
    start = timer.now()
    buffers = _inputs(batch, resolution, where, PRECISIONS[precision], seed)
    arms = [Arm(_prepare(m, where, PRECISIONS[precision]), buffers) for m in (candidate, reference)]
    peak_mib, finite = _first_call(arms[0])
    end = timer.now() + budget_s  # a process' first call may take seconds: not at the cost of the samples
    with torch.inference_mode():
        latency_ms = _latency_ms(arms[0].one_image(), timer, LATENCY_SHARE * budget_s)
        comparison = compare(arms[0].call(), arms[1].call(), timer, end - timer.now(), np.random.default_rng(seed))
    return _record(
        comparison,
        device=device_name(where),
        arm=f"{precision}, channels-last, {_form(candidate)}, eager{_threads(where)}",
        batch=batch,
        resolution=resolution,
        reference=name_of_reference,
        latency_ms=latency_ms,
        peak_memory_mib=peak_mib,
        seconds=timer.now() - start,
        verdict=comparison.verdict if finite else "wrong output",
    )


def _form(model: nn.Module) -> str:
    """One BatchNorm is a last norm, which nothing before it can take in; more are what folding had to leave."""
    left = batch_norms_left(model)
    return "fused" if left <= 1 else f"fused but for {left} BatchNorms"


def _threads(device: torch.device) -> str:
    return f", {torch.get_num_threads()} thread(s)" if device.type == "cpu" else ""


def _record(comparison: Comparison, *, batch: int, **rest: Any) -> Measurement:
    candidate, ratio = comparison.candidate, comparison.ratio
    return Measurement(
        batch=batch,
        throughput_img_s=batch / candidate.value,
        throughput_low_img_s=batch / candidate.high,
        throughput_high_img_s=batch / candidate.low,
        ratio=ratio.value,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        reference_img_s=batch / comparison.reference.value,
        samples=comparison.candidate_s.size,
        **rest,
    )


def _inputs(batch: int, resolution: int, device: torch.device, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """Random normal images: zeros would run 13 to 15 % faster."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 3, resolution, resolution)
    images = (torch.randn(shape, generator=generator) for _ in range(BUFFERS))
    return tuple(i.to(device, dtype).contiguous(memory_format=torch.channels_last) for i in images)


def _prepare(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    prepared = copy.deepcopy(model).eval().requires_grad_(False)
    return prepared.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _first_call(arm: Arm) -> tuple[float, bool]:
    """Peak memory in MiB, and whether every output of the first call is finite."""
    outputs: list[Any] = []
    peak_mib = peak_memory_mib(lambda: outputs.append(arm.call()()), arm.model, arm.buffers[0])
    tensors = (t for t in tree_leaves(outputs) if isinstance(t, Tensor))
    return peak_mib, all(bool(t.isfinite().all()) for t in tensors)


def _latency_ms(arm: Arm, timer: Timer, budget_s: float) -> float:
    """Median time of a call with one image, over 3 to 50 calls after two to warm up."""
    call = arm.call()
    timer.run([call], [2])
    deadline = timer.now() + budget_s
    times: list[float] = []
    while len(times) < 3 or (len(times) < 50 and timer.now() < deadline):
        times.append(timer.run([call], [1])[0].device_s)
    return float(np.median(times)) * 1e3
