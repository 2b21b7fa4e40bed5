"""Two networks in their arms, on their device, with inputs, at the batch that memory allows."""

from __future__ import annotations

import copy
import gc
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from backbones import fuse
from nas.measure.arms import UNSEEN, Arm
from nas.measure.correct import Check, check
from nas.measure.errors import Unmeasured
from nas.measure.memory import Peaks, peak_memory
from nas.measure.runtimes import runner
from nas.measure.sweep import largest_that_fits, out_of_memory
from nas.measure.timers import Call

SMALLER = 7  # eighths of a batch that fits eagerly, but not on the arm's own runtime
BUFFERS = 3  # rotated, so that no input stays in a cache from the call before


@dataclass(frozen=True)
class Setting:
    """What is measured, and for how long.

    `budget_s` bounds what is timed, from the second call on, but for a least of one block. `energy_s`: how long a card
    that counts its energy runs the candidate alone for it. `reference_arm`: None is the candidate's.
    """

    device: str
    batch: int
    resolution: int
    arm: Arm = Arm()  # noqa: RUF009  frozen
    reference_arm: Arm | None = None
    budget_s: float = 3.0
    energy_s: float = 2.0
    seed: int = 0  # decides inputs and order

    @property
    def arms_differ(self) -> bool:
        """Whether candidate and reference have different arms."""
        return self.reference_arm not in (None, self.arm)

    def __post_init__(self) -> None:
        for name in ("batch", "resolution", "budget_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)} must be positive")


@dataclass(frozen=True)
class Contender:
    """A network in its arm, on its device, with inputs (batch, 3, resolution, resolution)."""

    model: nn.Module
    run: Callable[[Tensor], Any]
    buffers: tuple[Tensor, ...]
    made_s: float
    notes: tuple[str, ...] = ()

    def call(self) -> Call:
        """A call that encodes the next input buffer."""
        turn = itertools.cycle(self.buffers)
        return lambda: self.run(next(turn))


def images(setting: Setting) -> tuple[Tensor, ...]:
    """Random normal images in fp32: zeros would run 13 to 15 % faster."""
    generator = torch.Generator().manual_seed(setting.seed)
    shape = (setting.batch, 3, setting.resolution, setting.resolution)
    return tuple(torch.randn(shape, generator=generator) for _ in range(BUFFERS))


def in_arm(net: nn.Module, arm: Arm, device: torch.device) -> nn.Module:
    """A copy of `net` on its device, in the arm's precision, layout and form; not on its runtime yet."""
    model: Any = fuse(net) if arm.form == "fused" else copy.deepcopy(net).eval().requires_grad_(False)
    ready: nn.Module = model.to(device=device, dtype=arm.dtype, memory_format=arm.memory_format)
    return ready


def contender(net: nn.Module, arm: Arm, drawn: tuple[Tensor, ...], batch: int, device: torch.device) -> Contender:
    """`net` in its arm, with the first `batch` of each of the `drawn` images."""
    model = in_arm(net, arm, device)
    buffers = tuple(d[:batch].to(device, arm.dtype).contiguous(memory_format=arm.memory_format) for d in drawn)
    made = runner(arm.runtime, model, buffers[0])
    return Contender(model, made.run, buffers, made.made_s, made.notes)


@dataclass(frozen=True)
class Ready:
    """Both at the batch that memory allows, the candidate also at batch 1, and what was seen on the way."""

    own: Contender
    other: Contender
    one: Contender
    batch: int
    peaks: Peaks
    checked: Check


def contenders(
    nets: tuple[nn.Module, nn.Module],
    drawn: tuple[Tensor, ...],
    wanted: list[Tensor],
    setting: Setting,
    device: torch.device,
) -> Ready:
    """Candidate and reference at the setting's batch, or the largest that fits, checked against the `wanted` outputs.

    Unmeasured where not even one image fits. Batches are tried eagerly: compiling each would take minutes.
    """
    if ready := _attempt(nets, drawn, wanted, setting, device, setting.batch):
        return ready
    eager = replace(setting, arm=replace(setting.arm, runtime="eager"), reference_arm=None)
    batch = setting.batch
    if setting.arm.runtime != "eager" and _attempt(nets, drawn, wanted, eager, device, batch):
        batch = batch * SMALLER // 8
    else:
        tried = lambda size: _attempt(nets, drawn, wanted, eager, device, size) is not None  # noqa: E731
        batch = largest_that_fits(tried, 0, batch)
    while batch:
        if ready := _attempt(nets, drawn, wanted, setting, device, batch):
            return ready
        batch = batch * SMALLER // 8
    raise Unmeasured("out of memory", "out of memory, even for one image")


def _attempt(
    nets: tuple[nn.Module, nn.Module],
    drawn: tuple[Tensor, ...],
    wanted: list[Tensor],
    setting: Setting,
    device: torch.device,
    batch: int,
) -> Ready | None:
    """None where memory ends. Everything that timing needs is there at once, and has run."""
    try:
        with torch.inference_mode():
            own = contender(nets[0], setting.arm, drawn, batch, device)
            peaks = _peaks(own, setting.arm, device)
            other = contender(nets[1], setting.reference_arm or setting.arm, drawn, batch, device)
            one = contender(nets[0], setting.arm, drawn, 1, device)
            for each in (one, other):
                each.call()()
        checked = check(own.run, own.buffers[0], wanted, setting.arm.precision)
        return Ready(own, other, one, batch, peaks, checked)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    gc.collect()  # not before the error, which holds the tensors, is gone
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def _peaks(own: Contender, arm: Arm, device: torch.device) -> Peaks:
    """Of the candidate alone. What a runtime took while it was made is not seen by a later call of it."""
    if device.type == "cpu" and arm.runtime != "eager":
        return Peaks(None, None)
    return peak_memory(own.call(), own.model, own.buffers[0], followed=arm.runtime not in UNSEEN)
