"""The results of profiling one network: frozen data, and JSON from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from nas.cli import one_line
from nas.measure import MeasurementError
from nas.measure.counts import CounterResult, Counts
from nas.measure.roofline import Ceilings
from nas.profile.arguments import ProfileSettings
from nas.study.records import Measurement

# Errors of networks and libraries; a programming error of this project is not among them.
FAILURES = (RuntimeError, ValueError, AssertionError, MemoryError)
LONGEST_REASON = 300  # characters of a library's message
PARTS_SHARE = 0.1  # share of the budget for timing the stages, and again for timing the layers
COVERED = (0.85, 1.05)  # plausible shares of a call that stages explain; outside, parts lack names or overlap


def failure_reason(error: Exception) -> str:
    """Return an error as one line, which begins with the verdict of a `MeasurementError`."""
    message = one_line(error)[:LONGEST_REASON].removeprefix("runtime: ")
    verdict = error.verdict if isinstance(error, MeasurementError) else ""
    if verdict == "hang":
        message += "; if the network is only slow, give a smaller --batch-size or --img-size"
    return message if message.startswith(verdict) else f"{verdict}: {message}"


def planned_s(settings: ProfileSettings) -> float:
    """Return the seconds that timing one network takes at most."""
    return settings.seconds * (1 + 2 * PARTS_SHARE + len(settings.sweeps))


@dataclass(frozen=True)
class PartRow:
    """One row of the table of stages or layers."""

    name: str
    params: int
    macs: int  # of one image, in the form that runs
    activations: int  # elements that operators write, of one image
    activation_bytes: int  # the same in bytes
    moved_bytes: int  # inputs, weights and outputs of all operators, of one batch
    time_ms: float  # of one batch
    share: float  # of the network's time
    bound: str  # "compute", "memory" or "none"
    attainable_ms: float  # of one batch
    utilization: float  # attainable / measured time; a value over 1 is an error of a ceiling or of the count


@dataclass(frozen=True)
class Roofline:
    """The device's ceilings, and the rows that exceed them."""

    ceilings: Ceilings
    measured_again: bool  # because a row exceeded them
    over: tuple[str, ...]  # rows whose utilization is still over 1


@dataclass(frozen=True)
class Point:
    """One size of a sweep. `batch` is smaller than `requested` where memory was too small."""

    requested: int
    batch: int
    resolution: int
    macs: int  # of one image
    throughput_img_s: float
    throughput_low_img_s: float | None  # 95 % confidence interval of the median; None where samples are too few
    throughput_high_img_s: float | None
    time_ms: float  # of one batch
    samples: int  # of several calls each, where calls are short
    verdict: str  # of nas.measure.verdicts, of which those on outputs and on a reference do not occur
    doubt: str | None = None  # why the speed cannot be trusted: one of nas.study.timing_doubts
    launch_share: float | None = None  # these four as in a `Measurement`; all sizes of a sweep share the last three
    tries: int = 1
    notes: tuple[str, ...] = ()
    conditions: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """Throughput over batch sizes or resolutions, timed interleaved."""

    points: tuple[Point, ...]
    refused: dict[int, str]  # size -> reason why it could not be timed

    @property
    def best(self) -> Point | None:
        """Return the size of the highest median throughput; None where nothing was timed."""
        return max(self.points, key=lambda point: point.throughput_img_s, default=None)

    @property
    def ties(self) -> tuple[Point, ...]:
        """Return the sizes whose intervals overlap that of the best one."""
        best = self.best
        if best is None or (low := best.throughput_low_img_s) is None:
            return ()
        highest = ((point, point.throughput_high_img_s) for point in self.points if point != best)
        return tuple(point for point, high in highest if high is not None and high >= low)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            **asdict(self),
            "best": asdict(self.best) if self.best else None,
            "ties": [asdict(t) for t in self.ties],
        }


@dataclass(frozen=True)
class OutputShape:
    """What a backbone returns: spatial tokens and a summary."""

    stride: int  # px of a token's side
    width: int  # channels of a token
    summary_width: int


@dataclass(frozen=True)
class Profile:
    """All counts and measurements of one backbone. Fields of later steps are None or empty."""

    arch: str
    arch_id: str | None  # None for a network that is not built from a spec
    batch: int
    resolution: int
    counts: Counts
    counters: tuple[CounterResult, ...]
    environment: dict[str, Any]
    measurement: Measurement | None = None
    stages: tuple[PartRow, ...] = ()
    stages_covered: float = 0.0  # the stages' time over the network's
    layers: tuple[PartRow, ...] = ()
    parts_launch_share: float | None = None  # host time over device time of the call in eager mode; None on a CPU
    parts_verdict: str | None = None  # of nas.measure.verdicts on what the device did; None where all was well
    parts_note: str | None = None  # why stages and layers are missing
    layers_slowed: float = 0.0  # by how much hooks slowed the run that timed layers: 0.1 is 10 %
    roofline: Roofline | None = None
    sweeps: dict[str, Sweep] = field(default_factory=dict)  # "batch", "resolution"
    missing: tuple[str, ...] = ()  # steps that were not done; the profile is partial
    failure: str | None = None  # reason why the measurements failed
    output: OutputShape | None = None

    @property
    def stages_note(self) -> str | None:
        """Return a warning where the stages explain far less or more than a whole call, else None."""
        if not self.stages or COVERED[0] <= self.stages_covered <= COVERED[1]:
            return None
        cause = (
            "other parts of the network belong to no stage"
            if self.stages_covered < 1
            else "stages overlap, or the timing hooks slow them"
        )
        return f"{self.arch}: the stages take {self.stages_covered:.0%} of the time of a whole call: {cause}"

    def to_dict(self) -> dict[str, Any]:
        """Return the object that --json prints."""
        return {
            "arch": self.arch,
            "arch_id": self.arch_id,
            "params": self.counts.params,
            "macs": self.counts.macs,
            "output": asdict(self.output) if self.output else None,
            "counters": {c.name: {"macs": c.macs, "reason": c.reason} for c in self.counters},
            "uncounted": self.counts.uncounted,
            **(self.measurement.to_dict() if self.measurement else {}),
            "stages": [asdict(row) for row in self.stages],
            "stages_covered": self.stages_covered,
            "layers": [asdict(row) for row in self.layers],
            "parts_launch_share": self.parts_launch_share,
            "parts_verdict": self.parts_verdict,
            "parts_note": self.parts_note,
            "layers_slowed": self.layers_slowed,
            "roofline": asdict(self.roofline) if self.roofline else None,
            "sweeps": {name: sweep.to_dict() for name, sweep in self.sweeps.items()},
            "missing": list(self.missing),
            "failure": self.failure,
            "environment": self.environment,
        }
