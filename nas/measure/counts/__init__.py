"""Count the multiply-accumulates (MACs) of a network exactly, and explain how the counts of fvcore and thop differ."""

from nas.measure.counts.compare import CounterResult, compare_counters
from nas.measure.counts.macs import Counts, checked_count, count
from nas.measure.counts.totals import network_totals, totals

__all__ = [
    "CounterResult",
    "Counts",
    "checked_count",
    "compare_counters",
    "count",
    "network_totals",
    "totals",
]
