"""What a latency predictor takes and gives: plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from scipy.special import ndtr

from search_space import ArchSpec

FEWEST = 10  # nets; of fewer, held-out errors say nothing
NORMAL_95 = 1.96


@dataclass(frozen=True)
class Observation:
    """A timed net: seconds of one batch, or any unit that all observations share.

    Seconds of different minutes don't compare where a machine drifts: give times relative to a reference that was timed
    beside the net (1 / `Measurement.ratio`), or those times the reference's usual seconds.
    stages_s: by the names of `Backbone.stage_modules`, in the same unit; any of them may be missing.
    """

    spec: ArchSpec
    seconds: float
    stages_s: Mapping[str, float] | None = None

    @classmethod
    def scaled(cls, spec: ArchSpec, seconds: float, whole_s: float, stages_s: Mapping[str, float]) -> Self:
        """With stages from another run, in which the whole net took `whole_s` (`nas.measure.stages.StageTimes`)."""
        return cls(spec, seconds, {name: stage_s * seconds / whole_s for name, stage_s in stages_s.items()})


@dataclass(frozen=True)
class Prediction:
    """What a measurement would most likely say. deviation: standard deviation of its logarithm."""

    seconds: float
    deviation: float

    @property
    def low_s(self) -> float:
        """Lower end of the 95 % interval."""
        return self.seconds * math.exp(-NORMAL_95 * self.deviation)

    @property
    def high_s(self) -> float:
        """Upper end of the 95 % interval."""
        return self.seconds * math.exp(NORMAL_95 * self.deviation)

    def chance_within(self, limit_s: float) -> float:
        """Probability that a measurement is `limit_s` or less."""
        return float(ndtr(math.log(limit_s / self.seconds) / self.deviation))


def check(observations: Sequence[Observation], batch: int, resolution: int) -> None:
    """Raises ValueError for too few nets, for what is no time, and for a setting that can't be."""
    for name, value in (("batch", batch), ("resolution", resolution)):
        if value < 1:
            raise ValueError(f"{name}: {value!r} must be 1 or more")
    nets = {observation.spec.arch_id for observation in observations}
    if len(nets) < FEWEST:
        raise ValueError(f"observations: {len(nets)} nets; a latency predictor needs {FEWEST} or more")
    for observation in observations:
        for what, seconds in (("whole", observation.seconds), *(observation.stages_s or {}).items()):
            if not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"observations: {observation.spec.arch_id}, {what}: {seconds!r} s; need more than 0")
