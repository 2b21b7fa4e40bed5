"""How much a network computes: exact multiply-accumulates, beside what fvcore and thop say and why they differ."""

from nas.counters.compare import Counter, side_by_side
from nas.counters.macs import Counts, count
from nas.counters.totals import Totals, totals

__all__ = ["Counter", "Counts", "Totals", "count", "side_by_side", "totals"]
