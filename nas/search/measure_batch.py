"""Choose the batch that a search measures on a GPU: so large that the GPU decides the speed.

A network of many small kernels is as fast as the CPU launches them: such throughputs would rank numbers of kernels. The
launches of a call take the same time at any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rich.console import Console

from nas.cli import one_line
from nas.command_log import Announce
from nas.machine import cpu_count
from nas.search.settings import SearchCommand
from nas.stage_progress import StageProgress
from nas.study.records import Measurement

MIB = 2**20
MAX_REFERENCE_SHARE = 0.5  # of the reference: a candidate twice as fast, with as many kernels, has twice its share
MAX_BATCH = 4096
MAX_MEMORY_SHARE = 0.1  # of the GPU, for the reference: candidates that do not fit would be lost
_MEASURE_S = 0.5
_NO_READING = (RuntimeError, ValueError, OSError)  # MeasurementError and ArmError are among them


def with_measure_batch(command: SearchCommand, show: Announce, console: Console) -> SearchCommand:
    """Return the command with the batch at which the reference is not launch-bound, unless the user gave one.

    Args:
        command: A new search.
        show: Receives a line about the choice.
        console: Shows the progress.
    """
    config = command.config
    if not config.device.startswith("cuda"):
        return command
    import torch

    from nas.backend.trial import setting_of
    from nas.measure.device_lock import exclusive_device
    from nas.measure.service import MeasurementService

    arch, setting = config.arch(config.reference), replace(setting_of(config), budget_s=_MEASURE_S, energy_s=0.0)
    memory_mib = torch.cuda.get_device_properties(config.device).total_memory / MIB
    grows = command.grows_batch and "max_memory_mib" not in config.limits  # which is that of a batch
    progress = StageProgress(console)

    def measure(batch: int) -> Measurement:
        progress(f"measuring {config.reference} in batches of {batch}", 0, 1)
        at_batch = replace(setting, batch=batch)
        return service.measure(arch, arch, at_batch, name_of_reference=config.reference).record

    try:
        with (
            progress.showing(),
            exclusive_device(config.device),
            MeasurementService(max(1, cpu_count() - 1)) as service,
        ):
            readings = grown(measure, setting.batch, memory_mib if grows else 0.0)
    except _NO_READING as error:  # on a cluster, the nodes may have what this machine lacks
        show(f"measuring in batches of {setting.batch}, whose launches are unknown: {one_line(error)}")
        return command
    show(choice_line(config.reference, readings))
    return replace(command, config=replace(config, measure_batch_size=readings[-1].batch))


def grown(measure: Callable[[int], Measurement], batch: int, memory_mib: float) -> list[Measurement]:
    """Return measurements of the reference at growing batches; the last is not launch-bound, or the largest possible.

    Args:
        measure: Measures the reference against itself in batches of a size.
        batch: The first size.
        memory_mib: Memory of the GPU; 0: the batch does not grow.

    Raises:
        MeasurementError, RuntimeError, ValueError: The first measurement gives no number.
    """
    from nas.measure.verdicts import MAX_LAUNCH_SHARE  # imports torch

    readings = [measure(batch)]
    while (last := readings[-1]).launch_share is not None and last.launch_share >= MAX_REFERENCE_SHARE:
        # Of a call that is launch-bound, the GPU's own time is unknown.
        factor = 4 if last.launch_share > MAX_LAUNCH_SHARE else 2
        batch = last.batch * factor
        known_mib = [last.peak_memory_mib, last.reserved_memory_mib, last.driver_memory_mib]
        needed_mib = next((mib for mib in known_mib if mib is not None), 0.0) * factor
        if batch > MAX_BATCH or needed_mib >= MAX_MEMORY_SHARE * memory_mib:
            break
        try:
            readings.append(measure(batch))
        except _NO_READING:  # the batch before it is the largest that can be measured
            break
    return readings


def choice_line(reference: str, readings: Sequence[Measurement]) -> str:
    """Say which batch the readings lead to, and why."""
    shares = ", ".join(f"{m.launch_share:.0%} in batches of {m.batch}" for m in readings if m.launch_share is not None)
    line = (
        f"measuring in batches of {readings[-1].batch}: launching the kernels of {reference} takes {shares} of its time"
    )
    if (readings[-1].launch_share or 0.0) < MAX_REFERENCE_SHARE:
        return line
    return f"warning: {line}, so the CPU decides the speed of faster candidates; --runtime reduce-overhead avoids that"
