"""Two networks in their arms, on their device, with inputs, at the batch that memory allows."""

from __future__ import annotations

import copy
import gc
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from backbones import fuse
from nas.measure.arms import FOREIGN, Arm
from nas.measure.errors import Unmeasured
from nas.measure.memory import Peaks, peak_memory
from nas.measure.runtimes import runner
from nas.measure.sweep import largest_that_fits, out_of_memory
from nas.measure.timers import Call

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

    def call(self) -> Call:
        """A call that encodes the next input buffer."""
        turn = itertools.cycle(self.buffers)
        return lambda: self.run(next(turn))


def images(setting: Setting) -> tuple[Tensor, ...]:
    """Random normal images in fp32: zeros would run 13 to 15 % faster."""
    generator = torch.Generator().manual_seed(setting.seed)
    shape = (setting.batch, 3, setting.resolution, setting.resolution)
    return tuple(torch.randn(shape, generator=generator) for _ in range(BUFFERS))


def contender(net: nn.Module, arm: Arm, drawn: tuple[Tensor, ...], batch: int, device: torch.device) -> Contender:
    model: Any = fuse(net) if arm.form == "fused" else copy.deepcopy(net).eval().requires_grad_(False)
    model = model.to(device=device, dtype=arm.dtype, memory_format=arm.memory_format)
    buffers = tuple(d[:batch].to(device, arm.dtype).contiguous(memory_format=arm.memory_format) for d in drawn)
    made = runner(arm.runtime, model, buffers[0])
    return Contender(model, made.run, buffers, made.made_s)


def contenders(
    nets: tuple[nn.Module, nn.Module], drawn: tuple[Tensor, ...], setting: Setting, device: torch.device
) -> tuple[tuple[Contender, Contender], Peaks, int]:
    """Candidate and reference, the candidate's memory, and the batch: that of the setting or the largest that fits."""
    arm = setting.arm
    followed = arm.runtime not in FOREIGN and (device.type == "cuda" or arm.runtime == "eager")

    def made(batch: int) -> tuple[tuple[Contender, Contender], Peaks]:
        with torch.inference_mode():
            first = contender(nets[0], arm, drawn, batch, device)
            peaks = peak_memory(first.call(), first.model, first.buffers[0], followed)
            second = contender(nets[1], setting.reference_arm or arm, drawn, batch, device)
            second.call()()
        return (first, second), peaks

    def attempt(batch: int) -> tuple[tuple[Contender, Contender], Peaks] | None:
        try:
            return made(batch)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        _free(device)  # not before the error, which holds the tensors, is gone
        return None

    if whole := attempt(setting.batch):
        return *whole, setting.batch
    batch = largest_that_fits(lambda size: attempt(size) is not None, 0, setting.batch)
    if not batch:
        raise Unmeasured("out of memory", "out of memory, even for one image")
    return *made(batch), batch


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
