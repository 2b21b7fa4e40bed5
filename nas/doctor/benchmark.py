"""Measure a set of networks against one reference, each in several runtimes; one row for each network and runtime."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nas.doctor.arguments import BenchmarkSettings
from nas.measure import Arm, Setting
from nas.measure.device_lock import exclusive_device
from nas.measure.service import MeasurementService
from nas.profile.profiles import failure_reason
from search_space import PRESETS
from search_space.timm_names import PREFIX
from search_space.timm_spec import find_network

REFERENCE = "timm:resnet50"
BESIDES_TIMING_S, COMPILING_S = 5.0, 60.0  # guesses of what a row takes in addition, until rows are timed

Row = dict[str, Any]
Step = Callable[[str, float], None]  # (step, seconds that are left)


def missing_rows(settings: BenchmarkSettings, rows: Sequence[Row]) -> list[Row]:
    """Return the rows that are still to be measured, without results; a row that failed is tried again."""
    measured = [_identity(row) for row in rows if "measurement" in row]
    return [row for row in _planned_rows(settings) if row not in measured]


def rows_of(settings: BenchmarkSettings, rows: Sequence[Row]) -> list[Row]:
    """Return the rows that the settings ask for; one without a result is as it was planned."""
    results = [(_identity(row), row) for row in rows]
    return [
        next((row for identity, row in results if identity == planned), planned) for planned in _planned_rows(settings)
    ]


def _planned_rows(settings: BenchmarkSettings) -> list[Row]:
    return [_planned(arch, arm, settings) for arm in settings.runtimes for arch in settings.archs]


def _planned(arch: str, arm: Arm, settings: BenchmarkSettings) -> Row:
    return {
        **_public_name(arch),
        "runtime": str(arm),
        "batch_size": settings.batch_size,
        "img_size": settings.img_size,
        "measure_seconds": settings.measure_seconds,
    }


def _public_name(arch: str) -> Row:
    """Return how rows name a network: a spec's file by its last part and the architecture's id, without its folders."""
    if arch in PRESETS or arch.startswith(PREFIX):
        return {"arch": arch}
    return {"arch": Path(arch).name, "arch_id": find_network(arch)[1].arch_id}


def _identity(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in ("measurement", "samples", "reason")}


def with_row(rows: Sequence[Row], new: Row) -> list[Row]:
    """Return the rows with a new one, which replaces an earlier try."""
    return [*(row for row in rows if _identity(row) != _identity(new)), new]


def measured_rows(
    settings: BenchmarkSettings, planned: Sequence[Row], device: str, service: MeasurementService, step: Step
) -> Iterator[Row]:
    """Yield the planned rows with a measurement and its samples, or with the reason why there is none.

    Each network is interleaved with `REFERENCE` in the same runtime, in a process of its own; the device's lock is held
    meanwhile.

    Args:
        settings: Of the user.
        planned: Rows of `missing_rows`.
        device: The device.
        service: Process that measures.
        step: Receives each row before it is measured.
    """
    archs = [(_public_name(arch), arch) for arch in settings.archs]
    began = time.monotonic()
    for done, row in enumerate(planned):
        left = planned[done:]
        left_s = (time.monotonic() - began) / done * len(left) if done else sum(map(_guess_s, left))
        step(f"{row['arch']}, {row['runtime']} ({done + 1} of {len(planned)})", left_s)
        with exclusive_device(device):
            arch = next(arch for name, arch in archs if name.items() <= row.items())
            yield row | _measured(arch, row, device, service)


def _guess_s(row: Row) -> float:
    compiling_s = COMPILING_S if Arm.parse(row["runtime"]).traits.slow_to_prepare else 0.0
    return float(row["measure_seconds"]) + BESIDES_TIMING_S + compiling_s


def _measured(arch: str, row: Row, device: str, service: MeasurementService) -> Row:
    arm = Arm.parse(row["runtime"])
    setting = Setting(device, row["batch_size"], row["img_size"], arm, budget_s=row["measure_seconds"])
    try:
        pair = service.measure(arch, REFERENCE, setting, name_of_reference=REFERENCE)
    except (
        Exception
    ) as error:  # networks reject sizes with many kinds of errors, and the others are still to be measured
        return {"reason": failure_reason(error)}
    return {"measurement": pair.record.to_dict(), "samples": pair.samples}
