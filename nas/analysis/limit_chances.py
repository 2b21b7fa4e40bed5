"""A net against the limits that somebody has: whether it keeps them, how surely, and by how much it does not. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from nas.study.limits import LIMITS, Compliance, Limit
from nas.study.records import Measurement, TrialRecord

NORMAL = NormalDist()
Z_OF_INTERVAL = NORMAL.inv_cdf(0.975)
FEW = 6  # samples: no interval of the median of fewer covers 95 %


@dataclass(frozen=True)
class Quantity:
    """What a limit bounds, of one net. No interval: exact, or nobody knows how exact."""

    name: str  # of the limit
    value: float
    low: float | None = None
    high: float | None = None

    @property
    def limit(self) -> Limit:
        """The limit's entry in the table."""
        return LIMITS[self.name]

    def kept(self, bound: float) -> bool:
        """Whether the value is within the limit."""
        return self.limit.compliance(self.value, bound) is Compliance.KEPT

    def chance(self, bound: float) -> float | None:
        """That the true value is within the limit, its logarithm taken as normal; None where nobody knows."""
        if self.low is None or self.high is None:
            return None if self.limit.timed else float(self.kept(bound))
        width = math.log(self.high / self.value) if bound > self.value else math.log(self.value / self.low)
        if bound == self.value:
            return 0.5 if self.high > self.low else 1.0
        if width <= 0:
            return float(self.kept(bound))
        below = NORMAL.cdf(math.log(bound / self.value) / (width / Z_OF_INTERVAL))
        return below if self.limit.maximum else 1 - below

    def give(self, bound: float) -> float:
        """The factor by which the limit would have to give, 1 where it is kept: 1.1 is ten percent."""
        return max(1.0, self.limit.factor(self.value, bound))


def quantities(trial: TrialRecord, m: Measurement | None, latencies_s: Sequence[float] = ()) -> dict[str, Quantity]:
    """By the limit's name, all that is known of a net. latencies_s: of calls with one image, for an interval."""
    costs = replace(trial, measurement=m)
    values = {name: limit.value(costs) for name, limit in LIMITS.items()}
    known = {name: Quantity(name, value) for name, value in values.items() if value is not None}
    if m is not None:
        name = "min_throughput_img_s"
        known[name] = Quantity(name, m.throughput_img_s, m.throughput_low_img_s, m.throughput_high_img_s)
        if interval := median_interval(latencies_s):
            known["max_latency_ms"] = Quantity("max_latency_ms", m.latency_ms, *(1e3 * end for end in interval))
    return known


def chance_to_keep(known: Mapping[str, Quantity], limits: Mapping[str, float]) -> float | None:
    """That all limits are kept, taken as independent; None where it is unknown of one of them."""
    chances = [known[name].chance(bound) if name in known else None for name, bound in limits.items()]
    return None if None in chances else math.prod(c for c in chances if c is not None)


def median_interval(samples: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the median of independent samples, by order statistics (David and Nagaraja 2003, 7.1)."""
    n = len(samples)
    if n < FEW:
        return None
    inside = math.floor((n - Z_OF_INTERVAL * math.sqrt(n)) / 2)
    ordered = sorted(samples)
    return ordered[max(0, inside - 1)], ordered[min(n - 1, n - inside)]
