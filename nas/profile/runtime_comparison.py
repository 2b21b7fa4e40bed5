"""Compare runtimes of one network, each timed against the same network on the first of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from backbones import Network, resolve
from nas.measure import Arm, ArmError, Setting
from nas.measure.counts import checked_count
from nas.measure.device_lock import exclusive_device, shared_device
from nas.measure.environment import environment
from nas.measure.service import MeasurementService
from nas.measure.verdicts import require_right_outputs
from nas.profile.arguments import ProfileSettings
from nas.profile.network import default_resolution
from nas.profile.profiles import FAILURES, failure_reason
from nas.study.records import Measurement
from nas.study.timing_doubts import compared_ratio_interval, has_interval

Progress = Callable[[str, float], None]  # (step, seconds that this network still takes)


@dataclass(frozen=True)
class RuntimeRow:
    """One runtime of one network, with its measurement or the reason why there is none."""

    name: str  # as the user gives it
    arm: Arm
    measurement: Measurement | None = None
    why_not: str | None = None
    impossible: bool = False  # it cannot run on this machine, which is no failure


@dataclass(frozen=True)
class RuntimesProfile:
    """One network on several runtimes.

    All runtimes are measured against the first that could be measured. That one against itself is the A/A pair.
    """

    arch: str
    arch_id: str | None
    params: int
    macs: int
    batch: int
    resolution: int
    environment: dict[str, Any]
    rows: tuple[RuntimeRow, ...] = ()
    missing: tuple[str, ...] = ()  # names of the runtimes that were not timed yet

    @property
    def first(self) -> RuntimeRow | None:
        """Return the row of the A/A pair; None where nothing was measured."""
        return next((row for row in self.rows if row.measurement), None)

    @property
    def noise(self) -> float | None:
        """Return the noise floor: the largest deviation from 1 in the A/A pair's interval, 0.01 for one percent.

        Smaller differences are ties. Each runtime is timed in a process of its own, so that the interval includes the
        deviation between processes. It is None where the pair has no usable interval.
        """
        ends = compared_ratio_interval(self.first.measurement) if self.first and self.first.measurement else None
        return max(1 / ends[0], ends[1]) - 1 if ends else None

    @property
    def by_runtime(self) -> tuple[RuntimeRow, ...]:
        """Return the rows grouped by runtime, in the order in which runtimes first occur."""
        runtimes = list(dict.fromkeys(row.arm.runtime for row in self.rows))
        return tuple(sorted(self.rows, key=lambda row: runtimes.index(row.arm.runtime)))

    @property
    def failed(self) -> bool:
        """Return whether a runtime that can run here could not be measured, or no runtime could be measured."""
        return any(row.why_not and not row.impossible for row in self.rows) or (not self.missing and not self.first)

    def tie(self, row: RuntimeRow) -> bool | None:
        """Return whether a runtime ties with the first: its interval overlaps the noise around 1; None if unknown.

        The interval is that of its own samples, because the noise includes the deviation between processes.
        """
        m, noise = row.measurement, self.noise
        if m is None or noise is None or not has_interval(m):
            return None
        return m.ratio_low <= 1 + noise and m.ratio_high >= 1 / (1 + noise)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        plain = {k: v for k, v in asdict(self).items() if k not in ("rows", "missing")}
        return {
            **plain,
            "reference": self.first.name if self.first else None,
            "noise": self.noise,
            "arms": [self._row(row) for row in self.rows],
            "missing": list(self.missing),
        }

    def _row(self, row: RuntimeRow) -> dict[str, Any]:
        measured = row.measurement.to_dict() if row.measurement else None
        return asdict(row) | {"arm": str(row.arm), "measurement": measured, "tie": self.tie(row)}


def compare_runtimes(
    arch: str, settings: ProfileSettings, service: MeasurementService, progress: Progress
) -> Iterator[RuntimesProfile]:
    """Yield the profile of a network after counting, and again after each runtime.

    The device's lock is held while runtimes are timed.

    Args:
        arch: Preset, timm:NAME or spec file.
        settings: How to compare.
        service: Process that measures.
        progress: Receives each step.

    Raises:
        ValueError: There is no such network, or it does not accept the resolution.
    """
    arms = settings.arms()
    progress(f"{arch}: building", settings.seconds * len(arms))
    with shared_device("cpu"):
        profile = _count_network(*resolve(arch), settings)
    yield profile
    with exclusive_device(str(settings.torch_device)):
        began = time.monotonic()
        for done, (name, arm) in enumerate(arms.items()):
            each_s = (time.monotonic() - began) / done if done else settings.seconds
            step = f"{profile.arch}: {name} ({done + 1} of {len(arms)})"
            progress(step, each_s * (len(arms) - done))
            row = _measure(arch, RuntimeRow(name, arm), profile, settings, service)
            profile = replace(profile, rows=(*profile.rows, row), missing=profile.missing[1:])
            yield profile


def _count_network(name: str, model: Network, settings: ProfileSettings) -> RuntimesProfile:
    resolution = settings.img_size or default_resolution(model.spec)
    counts, arms = checked_count(name, model, resolution), settings.arms()
    return RuntimesProfile(
        arch=name,
        arch_id=model.spec.arch_id,
        params=counts.params,
        macs=counts.macs,
        batch=settings.batch_at(resolution),
        resolution=resolution,
        environment=environment(str(settings.torch_device), *arms.values()),
        missing=tuple(arms),
    )


def _measure(
    arch: str, row: RuntimeRow, profile: RuntimesProfile, settings: ProfileSettings, service: MeasurementService
) -> RuntimeRow:
    first = profile.first or row
    setting = Setting(
        device=str(settings.torch_device),
        batch=profile.batch,
        resolution=profile.resolution,
        arm=row.arm,
        reference_arm=first.arm,
        budget_s=settings.seconds,
    )
    try:
        measured = service.measure(arch, arch, setting, name_of_reference=f"{profile.arch}, {first.arm}")
        require_right_outputs(measured.record)
    except FAILURES as error:
        return replace(row, why_not=failure_reason(error), impossible=isinstance(error, ArmError))
    return replace(row, measurement=measured.record)
