"""Hold what a profile is asked for and what it says: frozen data, and JSON from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from nas.cli import one_line
from nas.measure import Arm, MeasurementError
from nas.measure.counts import CounterResult, Counts
from nas.measure.roofline import Ceilings
from nas.study.records import Measurement

# What networks and libraries raise; no mistakes of our own.
FAILURES = (RuntimeError, ValueError, AssertionError, MemoryError)
LONGEST = 300  # characters of a library's own message
PARTS_SHARE = 0.1  # of the budget, for the stages' run and again for the layers'
COVERED = (0.85, 1.05)  # share of a call that stages explain: outside, parts have no name, or overlap


def reason(error: Exception) -> str:
    """Return an error in one line: of a `MeasurementError` its verdict and what more is known of it."""
    said = one_line(error)[:LONGEST].removeprefix("runtime: ")
    verdict = error.verdict if isinstance(error, MeasurementError) else ""
    return said if said.startswith(verdict) else f"{verdict}: {said}"


@dataclass(frozen=True)
class NetworkSettings:
    """How to profile networks. None: as the network and the device want it. `seconds` is for each timing."""

    device: torch.device
    cache: Path
    batch: int | None = None
    resolution: int | None = None
    arm: Arm = Arm()  # noqa: RUF009  frozen
    seconds: float = 30.0
    reference: str = "timm:resnet18"
    sweeps: dict[str, tuple[int, ...]] = field(default_factory=dict)  # "batch", "resolution": sizes
    new_ceilings: bool = False

    @property
    def planned_s(self) -> float:
        """Seconds that timing one network takes at most."""
        return self.seconds * (1 + 2 * PARTS_SHARE + len(self.sweeps))


@dataclass(frozen=True)
class PartRow:
    """One line of the table of stages or layers."""

    name: str
    params: int
    macs: int  # of one image, as it runs: fused
    activations: int  # elements that operators write, of one image
    activation_bytes: int  # the same in bytes
    moved_bytes: int  # inputs, weights and outputs of all operators, of one batch
    time_ms: float  # of one batch
    share: float  # of the whole's time
    bound: str  # "compute", "memory" or "none"
    attainable_ms: float  # of one batch
    utilisation: float  # attainable / measured; over 1 is an error: of a ceiling, or of the count


@dataclass(frozen=True)
class Roofline:
    """The ceilings that the rows are held against."""

    ceilings: Ceilings
    measured_again: bool  # because a row lay over them
    over: tuple[str, ...]  # rows whose utilisation is over 1 all the same


@dataclass(frozen=True)
class WindowCost:
    """A stage whose windows don't divide its map at one input size."""

    stage: int  # counted from 1
    windows: tuple[int, ...]  # one an attention block of a layer
    map_side: int
    resized_side: int  # what the whole stage runs on
    extra_tokens: float  # share of the tokens that attention would see without: 0.5 is half as many again
    extra_macs: int  # of one image. Exact where the stage is resized, for all of it goes by tokens; padded, an estimate


@dataclass(frozen=True)
class Point:
    """One size of a sweep. `requested` is not `batch` where memory was too small for it."""

    requested: int
    batch: int
    resolution: int
    macs: int  # of one image
    throughput_img_s: float
    throughput_low_img_s: float  # 95 % confidence interval of the median
    throughput_high_img_s: float
    time_ms: float  # of one batch
    samples: int  # of several calls each, where calls are short
    p50_ms: float | None = None  # percentiles of single calls; None where there were too few
    p95_ms: float | None = None
    p99_ms: float | None = None
    windows: tuple[WindowCost, ...] = ()  # stages whose windows don't divide their map


@dataclass(frozen=True)
class Sweep:
    """Throughput over batch sizes or resolutions, all timed by turns."""

    points: tuple[Point, ...]
    refused: dict[int, str]  # size -> why it could not be timed

    @property
    def best(self) -> Point | None:
        """The size of the highest median throughput; None where nothing was timed."""
        return max(self.points, key=lambda point: point.throughput_img_s, default=None)

    @property
    def ties(self) -> tuple[Point, ...]:
        """Sizes whose intervals overlap that of the best one."""
        best = self.best
        return tuple(
            point
            for point in self.points
            if best and point != best and point.throughput_high_img_s >= best.throughput_low_img_s
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            **asdict(self),
            "best": asdict(self.best) if self.best else None,
            "ties": [asdict(t) for t in self.ties],
        }


@dataclass(frozen=True)
class Profile:
    """Everything counted and measured about one backbone; None or empty is what no step has come to yet."""

    arch: str
    arch_id: str | None  # None for a network that is not built from a spec
    batch: int
    resolution: int
    counts: Counts
    counters: tuple[CounterResult, ...]
    environment: dict[str, Any]
    measurement: Measurement | None = None
    stages: tuple[PartRow, ...] = ()
    stages_covered: float = 0.0  # the stages' time over the whole's
    layers: tuple[PartRow, ...] = ()
    layers_slowed: float = 0.0  # the layers' run took so much longer than the stages': 0.1 is 10 %
    roofline: Roofline | None = None
    sweeps: dict[str, Sweep] = field(default_factory=dict)  # "batch", "resolution"
    missing: tuple[str, ...] = ()  # steps that were not done: the profile is partial
    failure: str | None = None  # why it could not be measured, or not to the end

    @property
    def stages_note(self) -> str | None:
        """What is wrong with the table of stages, where they explain far less or more than a whole call."""
        if not self.stages or COVERED[0] <= self.stages_covered <= COVERED[1]:
            return None
        little = (
            "what else it does has no name there" if self.stages_covered < 1 else "some overlap, or hooks slow them"
        )
        return f"{self.arch}: its stages take {self.stages_covered:.0%} of the time of a whole call: {little}"

    def to_dict(self) -> dict[str, Any]:
        """Return the object that --json prints."""
        return {
            "arch": self.arch,
            "arch_id": self.arch_id,
            "params": self.counts.params,
            "macs": self.counts.macs,
            "counters": {c.name: {"macs": c.macs, "reason": c.reason} for c in self.counters},
            "uncounted": self.counts.uncounted,
            **(self.measurement.to_dict() if self.measurement else {}),
            "stages": [asdict(row) for row in self.stages],
            "stages_covered": self.stages_covered,
            "layers": [asdict(row) for row in self.layers],
            "layers_slowed": self.layers_slowed,
            "roofline": asdict(self.roofline) if self.roofline else None,
            "sweeps": {name: sweep.to_dict() for name, sweep in self.sweeps.items()},
            "missing": list(self.missing),
            "failure": self.failure,
            "environment": self.environment,
        }
