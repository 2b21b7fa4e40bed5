"""Prepare two networks for timing: runtime, device, inputs, the batch that fits into memory."""

from __future__ import annotations

import copy
import gc
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from backbones import Backbone, fuse
from nas.measure.measurement_error import BatchTooLargeError, MeasurementError
from nas.measure.memory import MIB, Peaks, largest_fitting, out_of_memory, peak_memory
from nas.measure.output_check import Expected, OutputCheck, check
from nas.measure.runtime_spec import Arm
from nas.measure.runtimes import runner
from nas.measure.timers import Call
from search_space.memory import memory_bytes

BATCH_STEP = 7 / 8  # from a batch that fits eagerly, but not on the runtime, to the next smaller one
BUFFERS = 3  # inputs in rotation, so that none is still in a cache from the previous call


@dataclass(frozen=True)
class Setting:
    """How a pair is measured, and for how long.

    Attributes:
        device: "auto", "cpu", "cuda" or "cuda:N".
        batch: Images per call.
        resolution: Side of the images in px.
        arm: Runtime, precision, layout and form of the candidate.
        reference_arm: The same of the reference; None: the candidate's.
        budget_s: Seconds of timing after the first call; at least one block is timed.
        energy_s: Seconds for which a GPU that counts its energy runs the candidate alone.
        seed: Seed of inputs and order.
        smaller_batch: Whether the largest batch that fits is measured where `batch` does not fit. Compiling for it may
            take minutes; otherwise it is only named, by a `BatchTooLargeError`.

    Raises:
        ValueError: Batch, resolution or budget is not positive.
    """

    device: str
    batch: int
    resolution: int
    arm: Arm = Arm()  # noqa: RUF009  frozen
    reference_arm: Arm | None = None
    budget_s: float = 3.0
    energy_s: float = 2.0
    seed: int = 0
    smaller_batch: bool = True

    @property
    def arms_differ(self) -> bool:
        """Whether candidate and reference are run in different ways."""
        return self.reference_arm not in (None, self.arm)

    def __post_init__(self) -> None:
        for name in ("batch", "resolution", "budget_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)} must be positive")


@dataclass(frozen=True)
class Subject:
    """A network that is ready to run, on its device, with inputs (batch, 3, resolution, resolution)."""

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
    """Draw normally distributed images in fp32; zeros would run 13 to 15 % faster.

    Raises:
        MeasurementError: They take more memory than there is.
    """
    generator = torch.Generator().manual_seed(setting.seed)
    shape = (setting.batch, 3, setting.resolution, setting.resolution)
    if (needed := 4 * BUFFERS * math.prod(shape)) > memory_bytes():  # Linux would grant it, and kill when it is used
        each = f"{setting.batch} images of {setting.resolution} px"
        raise MeasurementError("out of memory", f"{BUFFERS} inputs of {each} take {needed / 1e9:,.0f} GB")
    return tuple(torch.randn(shape, generator=generator) for _ in range(BUFFERS))


def apply_arm(model: nn.Module, arm: Arm, device: torch.device) -> nn.Module:
    """Return a copy of `model` on its device, in the arm's precision, layout and form, but not on its runtime."""
    deployed: Any = fuse(model) if arm.form == "fused" else copy.deepcopy(model).eval().requires_grad_(False)
    converted: nn.Module = deployed.to(device=device, dtype=arm.dtype, memory_format=arm.memory_format)
    for part in converted.modules():
        if isinstance(part, Backbone):
            part.memory_format = arm.memory_format
    return converted


def prepare_subject(
    model: nn.Module, arm: Arm, inputs: tuple[Tensor, ...], batch: int, device: torch.device
) -> Subject:
    """Prepare a copy of `model` to run as `arm` says on the first `batch` images of each of the `inputs`.

    Not in inference mode: an exporter cannot trace a copy whose tensors were made there.
    """
    converted = apply_arm(model, arm, device)
    buffers = tuple(x[:batch].to(device, arm.dtype).contiguous(memory_format=arm.memory_format) for x in inputs)
    on_runtime = runner(arm.runtime, converted, buffers[0])
    return Subject(converted, on_runtime.run, buffers, on_runtime.compile_s, on_runtime.notes)


@dataclass(frozen=True)
class PreparedPair:
    """Candidate and reference at the batch that fits, and the candidate at batch 1; all of them have run once."""

    candidate: Subject
    reference: Subject
    single: Subject  # the candidate with one image
    batch: int
    peaks: Peaks
    output_check: OutputCheck


def prepare_pair(
    models: tuple[nn.Module, nn.Module],
    inputs: tuple[Tensor, ...],
    expected: Expected,
    setting: Setting,
    device: torch.device,
) -> PreparedPair:
    """Prepare candidate and reference at the setting's batch, or at the largest that fits if the setting wants it.

    The candidate's outputs are compared with the `expected` ones. The largest batch is searched eagerly, because
    compiling at each batch would take minutes.

    Raises:
        BatchTooLargeError: A smaller batch fits, which the setting does not want.
        MeasurementError: Not even one image fits.
    """
    if ready := _attempt(models, inputs, expected, setting, device, setting.batch):
        return ready
    eager = replace(setting, arm=replace(setting.arm, runtime="eager"), reference_arm=None)

    def fits(size: int) -> bool:
        return _attempt(models, inputs, expected, eager, device, size) is not None

    if setting.arm.runtime != "eager" and fits(setting.batch):
        batch, problem = int(setting.batch * BATCH_STEP), f"the batch of {setting.batch} fits in eager mode only"
    else:
        batch = largest_fitting(fits, 0, setting.batch)
        problem = f"only {batch} images of the batch of {setting.batch} fit"
    if batch and not setting.smaller_batch:
        raise BatchTooLargeError(problem)
    while batch:
        if ready := _attempt(models, inputs, expected, setting, device, batch):
            return ready
        batch = int(batch * BATCH_STEP)
    raise MeasurementError("out of memory", "memory is too small for one image")


def _attempt(
    models: tuple[nn.Module, nn.Module],
    inputs: tuple[Tensor, ...],
    expected: Expected,
    setting: Setting,
    device: torch.device,
    batch: int,
) -> PreparedPair | None:
    """Prepare everything that timing needs in memory at once, and run it; return None where memory is too small."""
    try:
        candidate = prepare_subject(models[0], setting.arm, inputs, batch, device)
        peaks = _peaks(candidate, setting.arm, device)
        reference = prepare_subject(models[1], setting.reference_arm or setting.arm, inputs, batch, device)
        single = prepare_subject(models[0], setting.arm, inputs, 1, device)
        with torch.inference_mode():
            for each in (single, reference):
                each.call()()
        output_check = check(candidate.run, candidate.buffers[0], expected)
        return PreparedPair(candidate, reference, single, batch, peaks, output_check)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    gc.collect()  # after the handler, for the error holds the tensors
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def _peaks(candidate: Subject, arm: Arm, device: torch.device) -> Peaks:
    """Measure the peak memory of the candidate alone with one of its inputs, without what its runtime took before."""
    unknown = arm.unknown_fields(device.type)
    images, *others = candidate.buffers
    with torch.inference_mode():
        peaks = peak_memory(candidate.call(), candidate.model, images, tracked="peak_memory_mib" not in unknown)
    if peaks.reserved_mib is None or "reserved_memory_mib" in unknown:
        return replace(peaks, reserved_mib=None)
    return replace(peaks, reserved_mib=peaks.reserved_mib - sum(each.nbytes for each in others) / MIB)
