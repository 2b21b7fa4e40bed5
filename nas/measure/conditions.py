"""What happens to a device while it is measured: clocks, heat, power, and who else is on it.

A `Watch` is begun, polled some 15 times a second by `watching`, and ended; what it saw are `Conditions`. `HostWatch` in
nas.measure.host and `CardWatch` in nas.measure.card are such.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

HERTZ = 15.0
# NVML's reasons for a lower clock, by bit. What heat or the board forces makes a number worthless; the power cap is the
# card's normal life.
SLOWDOWNS = {0x08: "hardware slowdown", 0x20: "heat (software)", 0x40: "heat (hardware)", 0x80: "power brake"}
POWER_CAP = 0x04


@dataclass(frozen=True)
class Reading:
    """One look at a card; None is what it doesn't tell."""

    at_s: float  # on the timer's clock
    clock_mhz: float | None  # of the multiprocessors
    power_w: float | None
    temperature_c: float | None
    reasons: int | None  # NVML's bits


@dataclass(frozen=True)
class Conditions:
    """What was seen during one measurement. None is what a device doesn't tell."""

    readings: tuple[Reading, ...] = ()
    strangers: int = 0  # other processes that computed on the card
    waited: float | None = None  # share of the time in which a thread of ours was ready and had no core
    others_cores: float | None = None  # CPUs that other processes kept busy, on average

    @property
    def slowdowns(self) -> tuple[str, ...]:
        """Why the card was slowed down against its will."""
        seen = 0
        for reading in self.readings:
            seen |= reading.reasons or 0
        return tuple(name for bit, name in SLOWDOWNS.items() if seen & bit)

    @property
    def power_capped(self) -> float:
        """Share of the readings at the power cap."""
        return sum(bool((r.reasons or 0) & POWER_CAP) for r in self.readings) / max(1, len(self.readings))

    @property
    def unknown(self) -> tuple[str, ...]:
        """What a card that is watched does not tell."""
        names = {"reasons": "heat", "clock_mhz": "clocks"}
        silent = (name for name in names if all(getattr(r, name) is None for r in self.readings))
        return tuple(names[name] for name in silent) if self.readings else ()

    def summary(self) -> dict[str, Any]:
        """Plain JSON data for a record: medians and extremes, without the readings."""
        found: dict[str, Any] = {k: v for k, v in asdict(self).items() if k != "readings" and v is not None}
        for name in ("clock_mhz", "power_w", "temperature_c"):
            told = (getattr(reading, name) for reading in self.readings)
            if values := [value for value in told if value is not None]:
                found[name] = [min(values), float(np.median(values)), max(values)]
        return found


class Watch(Protocol):
    """What watches one kind of device."""

    def begin(self) -> None:
        """Look who is there, and start to count."""
        ...

    def poll(self) -> None:
        """Take a reading."""
        ...

    def end(self) -> Conditions:
        """What was seen since `begin`."""
        ...

    def energy_j(self) -> float | None:
        """Joules that the device has used so far; None where nobody counts them."""
        ...


@contextmanager
def watching(watch: Watch, hertz: float | None = HERTZ) -> Iterator[Callable[[], Conditions]]:
    """Polls in a thread while the body runs (hertz None: never); the function ends that and gives the conditions."""
    over = threading.Event()

    def poll() -> None:
        while not over.wait(1 / hertz):  # type: ignore[operator]
            watch.poll()

    watch.begin()
    thread = threading.Thread(target=poll, daemon=True) if hertz else None
    if thread:
        thread.start()

    def conditions() -> Conditions:
        over.set()
        if thread:
            thread.join()
        return watch.end()

    try:
        yield conditions
    finally:
        over.set()
