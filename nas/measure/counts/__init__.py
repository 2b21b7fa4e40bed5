"""Count what a network computes: exact multiply-accumulates, beside those of fvcore and thop and why they differ."""

from nas.measure.counts.compare import CounterResult, compare_counters
from nas.measure.counts.macs import Counts, checked_count, count
from nas.measure.counts.totals import Totals, totals

__all__ = ["CounterResult", "Counts", "Totals", "checked_count", "compare_counters", "count", "totals"]
