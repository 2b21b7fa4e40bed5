"""Compare runtimes of one network, each timed beside the same network on the first of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from backbones import resolve
from nas.measure import Arm, ArmError, Setting, environment
from nas.measure.arms import FORMS, LAYOUTS, PRECISIONS, RUNTIMES
from nas.measure.counts import checked_count
from nas.measure.device_lock import exclusive_device
from nas.measure.service import MeasurementService
from nas.profile.network import default_batch, default_resolution
from nas.profile.profiles import FAILURES, reason
from nas.study.records import Measurement

Progress = Callable[[str, float], None]  # (what is being done, seconds that this network takes from now on)


@dataclass(frozen=True)
class RuntimeSettings:
    """How to compare runtimes. None: as the network and the device want it. `seconds` is for each of each network."""

    device: torch.device
    base: Arm  # what names leave open is as in it
    arms: Mapping[str, Arm]  # by what the person calls them
    batch: int | None = None
    resolution: int | None = None
    seconds: float = 10.0


@dataclass(frozen=True)
class RuntimeRow:
    """One runtime of one network; `why_not` where it has no measurement."""

    name: str  # what the person calls it
    arm: Arm
    measurement: Measurement | None = None
    why_not: str | None = None
    impossible: bool = False  # the arm cannot run here, which is no failure


@dataclass(frozen=True)
class RuntimesProfile:
    """What is known so far of one network on several runtimes.

    The first runtime that could be measured is what all are measured against, itself included: an A/A pair.
    """

    arch: str
    arch_id: str | None
    params: int
    macs: int
    batch: int
    resolution: int
    environment: dict[str, Any]
    rows: tuple[RuntimeRow, ...] = ()
    missing: tuple[str, ...] = ()  # names of the runtimes that are still to be timed

    @property
    def first(self) -> RuntimeRow | None:
        """The A/A pair."""
        return next((row for row in self.rows if row.measurement), None)

    @property
    def noise(self) -> float | None:
        """What an A/A pair may differ by, 0.01 being one percent: the farther end of its interval from 1.

        Differences under it are ties.
        """
        m = self.first.measurement if self.first else None
        return max(1 / m.ratio_low, m.ratio_high) - 1 if m else None

    @property
    def by_runtime(self) -> tuple[RuntimeRow, ...]:
        """Rows of one runtime together, in the order in which runtimes first come."""
        runtimes = list(dict.fromkeys(row.arm.runtime for row in self.rows))
        return tuple(sorted(self.rows, key=lambda row: runtimes.index(row.arm.runtime)))

    @property
    def failed(self) -> bool:
        """Whether a runtime that may run here could not be measured, or none could at all."""
        return any(row.why_not and not row.impossible for row in self.rows) or (not self.missing and not self.first)

    def tie(self, row: RuntimeRow) -> bool:
        """Return whether a runtime cannot be told from the first: its interval reaches into the noise around 1."""
        m, noise = row.measurement, self.noise
        return m is not None and noise is not None and m.ratio_low <= 1 + noise and m.ratio_high >= 1 / (1 + noise)

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
        tie = self.tie(row) if measured else None
        return asdict(row) | {"arm": str(row.arm), "measurement": measured, "tie": tie}


def comparing(
    arch: str, settings: RuntimeSettings, service: MeasurementService, progress: Progress
) -> Iterator[RuntimesProfile]:
    """Yield what is known of `arch` (preset, timm:NAME or spec file) before, and after every runtime.

    The device's lock is held while runtimes are timed.

    Raises:
        ValueError: There is no such network, or it cannot take the resolution.
    """
    progress(f"{arch}: building", settings.seconds * len(settings.arms))
    known = _counted(*resolve(arch), settings)
    yield known
    with exclusive_device(str(settings.device)):
        began = time.monotonic()
        for done, (name, arm) in enumerate(settings.arms.items()):
            each_s = (time.monotonic() - began) / done if done else settings.seconds
            which = f"{name} ({done + 1} of {len(settings.arms)})"
            progress(f"{known.arch}: {which}", each_s * (len(settings.arms) - done))
            row = _measured(arch, RuntimeRow(name, arm), known, settings, service)
            known = replace(known, rows=(*known.rows, row), missing=known.missing[1:])
            yield known


def _counted(name: str, model: nn.Module, settings: RuntimeSettings) -> RuntimesProfile:
    spec = getattr(model, "spec", None)
    resolution = settings.resolution or default_resolution(spec)
    counts = checked_count(name, model, resolution)
    return RuntimesProfile(
        arch=name,
        arch_id=spec.arch_id if spec is not None else None,
        params=counts.params,
        macs=counts.macs,
        batch=settings.batch or default_batch(settings.device, resolution),
        resolution=resolution,
        environment=environment(str(settings.device)),
        missing=tuple(settings.arms),
    )


def _measured(
    arch: str, row: RuntimeRow, known: RuntimesProfile, settings: RuntimeSettings, service: MeasurementService
) -> RuntimeRow:
    first = known.first or row
    setting = Setting(
        device=str(settings.device),
        batch=known.batch,
        resolution=known.resolution,
        arm=row.arm,
        reference_arm=first.arm,
        budget_s=settings.seconds,
    )
    try:
        found = service.measure(arch, arch, setting, name_of_reference=f"{known.arch}, {first.arm}")
    except FAILURES as error:
        return replace(row, why_not=reason(error), impossible=isinstance(error, ArmError))
    return replace(row, measurement=found.record)


def named_arms(text: str, base: Arm) -> dict[str, Arm]:
    """Parse runtimes: a list with commas, or "all", which is `base` and every single change of it.

    What a name leaves open is as in `base`.

    Raises:
        ArmError: A word is unknown, or two names stand for one runtime.
    """
    names = _all_names(base) if text == "all" else [name.strip() for name in text.split(",")]
    arms: dict[str, Arm] = {}
    for name in names:
        arm = Arm.parse(name, base)
        twin = next((known for known, other in arms.items() if other == arm), None)
        if twin is not None:
            raise ArmError(f"runtime: {twin!r} and {name!r} are one: {arm}")
        arms[name] = arm
    return arms


def _all_names(base: Arm) -> Sequence[str]:
    words = (*RUNTIMES, *PRECISIONS, *LAYOUTS, *FORMS)
    return [base.runtime, *(word for word in words if Arm.parse(word, base) != base)]
