"""Compare a candidate with limits: whether it is within them, with what chance, and the excess. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from nas.study.limits import LIMITS, Compliance, Limit
from nas.study.records import Measurement, TrialRecord
from nas.study.timing_doubts import DISTURBED, MIN_INTERVAL_SAMPLES, throughput_interval

NORMAL = NormalDist()
Z_OF_INTERVAL = NORMAL.inv_cdf(0.975)


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
        """Return the chance that the true value is within the limit (lognormal); None where it is unknown."""
        if self.low is None or self.high is None:
            return None if self.limit.timed else float(self.kept(bound))
        width = math.log(self.high / self.value) if bound > self.value else math.log(self.value / self.low)
        if bound == self.value:
            return 0.5 if self.high > self.low else 1.0
        if width <= 0:
            return float(self.kept(bound))
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
    costs = replace(trial, measurement=m)
    values = {name: limit.value(costs) for name, limit in LIMITS.items()}
    known = {name: value for name, value in values.items() if value is not None and not math.isnan(value)}
    by_limit = {name: Quantity(name, value) for name, value in known.items()}
    if m is not None:
        trusted, name = m.verdict not in DISTURBED, "min_throughput_img_s"
        ends = throughput_interval(m) if trusted else None
        by_limit[name] = Quantity(name, m.throughput_img_s, *(ends or ()))
        if trusted and (interval := median_interval(latencies_s)):
            by_limit["max_latency_ms"] = Quantity("max_latency_ms", m.latency_ms, *(1e3 * end for end in interval))
    return by_limit


def chance_to_keep(values: Mapping[str, Quantity], limits: Mapping[str, float]) -> float | None:
    """Return the chance that all limits are kept, taken as independent; None where one of them is unknown."""
    chances = [values[name].chance(bound) if name in values else None for name, bound in limits.items()]
    return None if None in chances else math.prod(c for c in chances if c is not None)


def median_interval(samples: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the median, by order statistics (David and Nagaraja 2003, 7.1)."""
    n = len(samples)
    if n < MIN_INTERVAL_SAMPLES:
        return None
    inside = math.floor((n - Z_OF_INTERVAL * math.sqrt(n)) / 2)
    ordered = sorted(samples)
    return ordered[max(0, inside - 1)], ordered[min(n - 1, n - inside)]
