"""What the hard limits are about: the numbers of a net that they bound. Pure.

A limit is named as in `SearchConfig.limits`: "max_..." from above, "min_..." from below.
"""

from __future__ import annotations

from nas.records import Measurement, TrialRecord


def limited(record: TrialRecord, measured: Measurement | None) -> dict[str, float]:
    """By the limit's name, what is known of a net under a measurement; what nobody knows is left out."""
    known: dict[str, float] = {}
    if record.params is not None:
        known["max_params"] = record.params
    if record.macs is not None:
        known["max_gmacs"] = record.macs / 1e9
    if measured is not None:
        known["max_latency_ms"] = measured.latency_ms
        known["min_throughput_img_s"] = measured.throughput_img_s
        memory_mib = measured.peak_memory_mib or measured.driver_memory_mib or measured.reserved_memory_mib
        if memory_mib is not None:
            known["max_memory_mib"] = memory_mib
    return known


def keeps(name: str, value: float, bound: float) -> bool:
    """Whether a value is within the limit; on it is within."""
    return value >= bound if name.startswith("min_") else value <= bound
