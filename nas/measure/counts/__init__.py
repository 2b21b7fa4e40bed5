"""How much a network computes: exact multiply-accumulates, beside what fvcore and thop say and why they differ."""

from nas.measure.counts.compare import CounterResult, side_by_side
from nas.measure.counts.macs import Counts, count
from nas.measure.counts.totals import Totals, totals

__all__ = ["CounterResult", "Counts", "Totals", "count", "side_by_side", "totals"]
