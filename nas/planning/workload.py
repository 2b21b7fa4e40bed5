"""Candidates for the simulation, drawn from the times of a few real ones. Pure.

Times and worth are drawn independently. How many trials train on then depends on how much better than earlier ones
later candidates are: where nothing is learned all orders are equally likely, and of the first n trials at a rung
sum(ceil(i / eta) / i) go on, whatever their values. A sampler that learns from those that are over makes more go on.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from nas.planning.simulate import Candidate

# Standard deviations by which both objectives of new candidates rise for each e-fold of the trials that are over, so
# that 200 trials end as the recorded searches did: python -m experiments.benchmarks.simulated_wall --fit. Of 200 of
# known-cost's 106 and 90 reached the second rung, 67 and 55 the third; of evolution's 119 and 76.
LEARNING = {"random": 0.0, "known-cost": 0.4, "evolution": 0.6}
OTHERS_LEARN = 0.6  # nsga2, tpe


@dataclass(frozen=True)
class TrialTimes:
    """Seconds of one architecture: its measurement, and each rung with its evaluation."""

    measure_s: float
    rung_s: tuple[float, ...]


@dataclass(frozen=True)
class Workload:
    """A search's candidates: `times` of the probed ones, the share that breaks a hard limit before it is measured, and
    how fast the sampler learns (see `LEARNING`)."""

    times: Sequence[TrialTimes]
    infeasible: float = 0.0
    learning: float = 0.0
    seed: int = 0

    def draw(self, asked: int, over: int) -> Candidate:
        """Candidate number `asked`, of a sampler that has seen `over` trials end."""
        rng = random.Random(f"{self.seed}/{asked}")
        if rng.random() < self.infeasible:
            return Candidate(0.0, (), ())
        times = rng.choice(self.times)
        rise = self.learning * math.log1p(over)
        point = (rng.gauss(rise, 1.0), rng.gauss(rise, 1.0))
        return Candidate(times.measure_s, times.rung_s, (point,) * len(times.rung_s))
