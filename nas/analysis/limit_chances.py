"""Compare a candidate with limits: whether it is within them, with what chance, and the excess. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from nas.study.limits import LIMITS, Compliance, Limit
from nas.study.records import Measurement, TrialRecord
from nas.study.timing_doubts import DISTURBED, Z_OF_INTERVAL, widened

NORMAL = NormalDist()


@dataclass(frozen=True)
class Quantity:
    """One candidate's value of a limited quantity. Without an interval it is exact, or of unknown precision."""

    name: str  # of the limit
    value: float
    low: float | None = None
    high: float | None = None

    @property
    def limit(self) -> Limit:
        """Return the limit's entry in `LIMITS`."""
        return LIMITS[self.name]

    def kept(self, bound: float) -> bool:
        """Return whether the value is within the limit."""
        return self.limit.compliance(self.value, bound) is Compliance.KEPT

    def chance(self, bound: float) -> float | None:
        """Return the chance that a timing in another process is within the limit (lognormal); None where unknown.

        A value whose interval has no width is exact.
        """
        if self.low is None or self.high is None:
            return None if self.limit.interval else float(self.kept(bound))
        if self.low == self.high:
            return float(self.kept(bound))
        if bound == self.value:
            return 0.5
        low, high = widened(self.value, (self.low, self.high), self.limit.run_deviation)
        width = math.log(high / self.value) if bound > self.value else math.log(self.value / low)
        below = NORMAL.cdf(math.log(bound / self.value) / (width / Z_OF_INTERVAL))
        return below if self.limit.maximum else 1 - below

    def relaxation(self, bound: float) -> float:
        """Return the factor by which the limit would have to be relaxed: 1.1 is ten percent, 1 is within it."""
        return max(1.0, self.limit.factor(self.value, bound))


def quantities(trial: TrialRecord, m: Measurement | None, latencies_s: Sequence[float] = ()) -> dict[str, Quantity]:
    """Return the known quantities of a candidate by the limit's name; single-image `latencies_s` give an interval.

    A value that is not a number, as the latency of a table that has none, is unknown.
    The times of a disturbed measurement have none: its intervals cannot be trusted, nor chances that are from them.
    """
    costs, by_limit = replace(trial, measurement=m), dict[str, Quantity]()
    trusted = m if m is not None and m.verdict not in DISTURBED else None
    for name, limit in LIMITS.items():
        value = limit.value(costs)
        if value is not None and not math.isnan(value):
            ends = limit.interval(trusted, latencies_s) if limit.interval and trusted else None
            by_limit[name] = Quantity(name, value, *(ends or ()))
    return by_limit


def chance_to_keep(values: Mapping[str, Quantity], limits: Mapping[str, float]) -> float | None:
    """Return the chance that all limits are kept, taken as independent; None where one of them is unknown."""
    chances = [values[name].chance(bound) if name in values else None for name, bound in limits.items()]
    return None if None in chances else math.prod(c for c in chances if c is not None)
