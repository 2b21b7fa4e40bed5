"""Prepare two networks for timing: their runtime, device and inputs, the batch that memory allows, correct outputs."""

from __future__ import annotations

import copy
import gc
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from backbones import fuse
from nas.measure.arms import Arm
from nas.measure.memory import Peaks, peak_memory
from nas.measure.runtimes import runner
from nas.measure.sweep import largest_fitting, out_of_memory
from nas.measure.timers import Call
from nas.measure.verdicts import MeasurementError

# Error that is still rounding, by precision: 25 nets came to 1.3e-6, 1.6e-3 and 1.4e-2 at most (LOG.md). cuDNN may use
# TF32 in what is called fp32.
TOLERANCES = {"fp32": 5e-3, "fp16": 1e-2, "bf16": 5e-2}
CHECKED_IMAGES = 2  # enough to tell whether outputs are correct
SMALLER_BATCH = 7 / 8  # of a batch that fits eagerly, but not on the arm's own runtime
BUFFERS = 3  # rotated, so that no input stays in a cache from the call before


@dataclass(frozen=True)
class Setting:
    """How a pair is measured, and for how long.

    Attributes:
        device: "auto", "cpu", "cuda" or "cuda:N".
        batch: Images a call.
        resolution: Pixels a side.
        arm: How the candidate is run.
        reference_arm: How the reference is run; None: as the candidate.
        budget_s: Seconds of timing from the second call on; at least one block is timed.
        energy_s: Seconds for which a card that counts its energy runs the candidate alone.
        seed: Decides inputs and order.
    """

    device: str
    batch: int
    resolution: int
    arm: Arm = Arm()  # noqa: RUF009  frozen
    reference_arm: Arm | None = None
    budget_s: float = 3.0
    energy_s: float = 2.0
    seed: int = 0

    @property
    def arms_differ(self) -> bool:
        """Whether candidate and reference have different arms."""
        return self.reference_arm not in (None, self.arm)

    def __post_init__(self) -> None:
        for name in ("batch", "resolution", "budget_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)} must be positive")


@dataclass(frozen=True)
class Subject:
    """A network in its arm, on its device, with inputs (batch, 3, resolution, resolution)."""

    model: nn.Module
    run: Callable[[Tensor], Any]
    buffers: tuple[Tensor, ...]
    compile_s: float
    notes: tuple[str, ...] = ()

    def call(self) -> Call:
        """Return a call that encodes the next input buffer."""
        turn = itertools.cycle(self.buffers)
        return lambda: self.run(next(turn))


def images(setting: Setting) -> tuple[Tensor, ...]:
    """Draw random normal images in fp32: zeros would run 13 to 15 % faster."""
    generator = torch.Generator().manual_seed(setting.seed)
    shape = (setting.batch, 3, setting.resolution, setting.resolution)
    return tuple(torch.randn(shape, generator=generator) for _ in range(BUFFERS))


def apply_arm(net: nn.Module, arm: Arm, device: torch.device) -> nn.Module:
    """Return a copy of `net` on its device, in the arm's precision, layout and form; not on its runtime yet."""
    model: Any = fuse(net) if arm.form == "fused" else copy.deepcopy(net).eval().requires_grad_(False)
    ready: nn.Module = model.to(device=device, dtype=arm.dtype, memory_format=arm.memory_format)
    return ready


def prepare_subject(net: nn.Module, arm: Arm, drawn: tuple[Tensor, ...], batch: int, device: torch.device) -> Subject:
    """Put `net` in its arm, with the first `batch` of each of the `drawn` images."""
    model = apply_arm(net, arm, device)
    buffers = tuple(d[:batch].to(device, arm.dtype).contiguous(memory_format=arm.memory_format) for d in drawn)
    made = runner(arm.runtime, model, buffers[0])
    return Subject(model, made.run, buffers, made.compile_s, made.notes)


@dataclass(frozen=True)
class PreparedPair:
    """Candidate and reference at the batch that memory allows, and the candidate at batch 1; all of them have run."""

    candidate: Subject
    reference: Subject
    single: Subject  # the candidate with one image
    batch: int
    peaks: Peaks
    checked: Check


def prepare_pair(
    nets: tuple[nn.Module, nn.Module],
    drawn: tuple[Tensor, ...],
    wanted: list[Tensor],
    setting: Setting,
    device: torch.device,
) -> PreparedPair:
    """Prepare candidate and reference at the setting's batch, or the largest that fits.

    The candidate's outputs are checked against the `wanted` ones. Batches are tried eagerly: compiling each would take
    minutes.

    Raises:
        MeasurementError: Not even one image fits.
    """
    if ready := _attempt(nets, drawn, wanted, setting, device, setting.batch):
        return ready
    eager = replace(setting, arm=replace(setting.arm, runtime="eager"), reference_arm=None)
    batch = setting.batch
    if setting.arm.runtime != "eager" and _attempt(nets, drawn, wanted, eager, device, batch):
        batch = int(batch * SMALLER_BATCH)
    else:
        tried = lambda size: _attempt(nets, drawn, wanted, eager, device, size) is not None  # noqa: E731
        batch = largest_fitting(tried, 0, batch)
    while batch:
        if ready := _attempt(nets, drawn, wanted, setting, device, batch):
            return ready
        batch = int(batch * SMALLER_BATCH)
    raise MeasurementError("out of memory", "out of memory, even for one image")


def _attempt(
    nets: tuple[nn.Module, nn.Module],
    drawn: tuple[Tensor, ...],
    wanted: list[Tensor],
    setting: Setting,
    device: torch.device,
    batch: int,
) -> PreparedPair | None:
    """Make everything that timing needs, all at once, and run it; None where memory ends."""
    try:
        with torch.inference_mode():
            candidate = prepare_subject(nets[0], setting.arm, drawn, batch, device)
            peaks = _peaks(candidate, setting.arm, device)
            reference = prepare_subject(nets[1], setting.reference_arm or setting.arm, drawn, batch, device)
            single = prepare_subject(nets[0], setting.arm, drawn, 1, device)
            for each in (single, reference):
                each.call()()
        checked = check(candidate.run, candidate.buffers[0], wanted, setting.arm.precision)
        return PreparedPair(candidate, reference, single, batch, peaks, checked)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    gc.collect()  # not before the error, which holds the tensors, is gone
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def _peaks(candidate: Subject, arm: Arm, device: torch.device) -> Peaks:
    """Measure the peak memory of the candidate alone.

    What a runtime took while it was made is not seen by a later call of it.
    """
    followed = "peak_memory_mib" not in arm.unknown_fields(device.type)
    if device.type == "cpu" and not followed:
        return Peaks(None, None)
    return peak_memory(candidate.call(), candidate.model, candidate.buffers[0], followed)


@dataclass(frozen=True)
class Check:
    """Whether outputs are correct. `error`: the worst relative Euclidean norm of a difference."""

    error: float
    correct: bool


def reference_outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the outputs of the network as it was trained, eager, fp32, NCHW, for fp32 `images`, one by one."""
    trained = copy.deepcopy(model).eval().requires_grad_(False).to(images.device, torch.float32)
    with torch.inference_mode():
        each = [outputs(getattr(trained, "encode", trained), image) for image in images.contiguous()[:, None]]
    return [torch.cat(parts) for parts in zip(*each, strict=True)]


def check(run: Callable[[Tensor], Any], images: Tensor, wanted: list[Tensor], precision: str) -> Check:
    """Compare the outputs of `run` for the first of `images` with the reference outputs."""
    with torch.inference_mode():
        found = outputs(run, images)
    if [f.shape[1:] for f in found] != [w.shape[1:] for w in wanted]:
        return Check(float("inf"), False)
    errors = [_error(f[: len(w)].float(), w[: len(f)]) for f, w in zip(found, wanted, strict=True)]
    worst = float(torch.tensor(errors).max())  # unlike Python's max, NaN wins
    return Check(worst, worst <= TOLERANCES[precision] and all(bool(f.isfinite().all()) for f in found))


def outputs(run: Callable[[Tensor], Any], images: Tensor) -> list[Tensor]:
    """Return every tensor that `run` gives, copied: some runtimes write the next call's into the same memory."""
    return [leaf.clone() for leaf in tree_leaves(run(images)) if isinstance(leaf, Tensor)]


def _error(found: Tensor, wanted: Tensor) -> float:
    return float(torch.linalg.vector_norm(found - wanted) / torch.linalg.vector_norm(wanted).clamp(min=1e-12))
