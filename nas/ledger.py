"""Where the workers' seconds went, by the trials. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from nas.records import TrialRecord


def spent(trials: Collection[TrialRecord], rung_steps: Sequence[int]) -> dict[str, float]:
    """Seconds of measuring, and of training to each rung."""
    ledger = {"measure": sum(t.measurement.seconds for t in trials if t.measurement)}
    for rung, steps in enumerate(rung_steps):
        ledger[f"train to {steps} steps"] = sum(t.rungs[rung].seconds for t in trials if len(t.rungs) > rung)
    return ledger
