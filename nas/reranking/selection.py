"""Which nets of a study are measured again: its front, the near misses, all, or some by number. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nas.pareto import ranks
from nas.records import Measurement, Study, TrialRecord

NEAR_RANKS = 2  # non-dominated layers behind the front that may come to the front elsewhere
WHICH = ("front", "near", "all")


class SelectionError(ValueError):
    """Nothing can be chosen, or what was asked for does not exist; the message is one line for people."""


def complete(study: Study) -> tuple[TrialRecord, ...]:
    """Trials and baselines with both objectives: trained to the last rung, measured, finite numbers."""
    return tuple(t for t in study.trials if math.isfinite(t.final_score) and _has_ratio(t.measurement))


def chosen(study: Study, which: str) -> tuple[TrialRecord, ...]:
    """The trials that `which` names (one of `WHICH`, or numbers with commas) and all baselines, in the study's order.

    SelectionError where the study has no complete trial or `which` names none.
    """
    able = complete(study)
    found = [t for t in able if not t.baseline]
    if not found:
        raise SelectionError("the study has no trial that was measured and trained to its last rung")
    if which == "all":
        return able
    numbers = _in_layers(found, NEAR_RANKS if which == "near" else 0) if which in WHICH else _named(able, which)
    return tuple(t for t in able if t.baseline or t.number in numbers)


def _has_ratio(m: Measurement | None) -> bool:
    return m is not None and 0 < m.ratio < math.inf


def _in_layers(found: Sequence[TrialRecord], last: int) -> set[int]:
    layer = ranks([(t.final_score, t.measurement.ratio if t.measurement else math.nan) for t in found])
    return {t.number for t, rank in zip(found, layer, strict=True) if rank <= last}


def _named(able: Sequence[TrialRecord], which: str) -> set[int]:
    try:
        numbers = {int(part) for part in which.split(",")}
    except ValueError:
        raise SelectionError(f"--which: {which!r}: must be {', '.join(WHICH)} or trial numbers with commas") from None
    if missing := sorted(numbers - {t.number for t in able}):
        raise SelectionError(f"--which: trial {missing[0]} is none that was measured and trained to the last rung")
    return numbers
