"""Which nets of a study are measured again: its front, the near misses, all, or some by number. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nas.pareto import ranks
from nas.records import Study, TrialRecord, TrialState

BASELINE = "baseline:"
NEAR_RANKS = 2  # non-dominated layers behind the front that may come to the front elsewhere
WHICH = ("front", "near", "all")


class SelectionError(ValueError):
    """Nothing can be chosen, or what was asked for does not exist; the message is one line for people."""


def complete(study: Study) -> tuple[TrialRecord, ...]:
    """Trials and baselines with both objectives: trained to the last rung, measured, finite numbers."""
    return tuple(t for t in study.trials if t.state is TrialState.COMPLETE and _has_both(t))


def is_baseline(trial: TrialRecord) -> bool:
    """Whether it is a backbone to compare with, not a find of the search."""
    return trial.origin.startswith(BASELINE)


def net_name(trial: TrialRecord) -> str:
    """The baseline's arch name, else the architecture's id."""
    return trial.origin.removeprefix(BASELINE) if is_baseline(trial) else trial.arch_id


def chosen(study: Study, which: str) -> tuple[TrialRecord, ...]:
    """The trials that `which` names (one of `WHICH`, or numbers with commas) and all baselines, in the study's order.

    SelectionError where the study has no complete trial or `which` names none.
    """
    able = complete(study)
    found = [t for t in able if not is_baseline(t)]
    if not found:
        raise SelectionError("the study has no trial that was measured and trained to its last rung")
    if which == "all":
        return able
    numbers = _in_layers(found, NEAR_RANKS if which == "near" else 0) if which in WHICH else _named(able, which)
    return tuple(t for t in able if is_baseline(t) or t.number in numbers)


def quality(trial: TrialRecord) -> float:
    """Of a complete trial, at the last rung."""
    return trial.rungs[-1].quality


def _has_both(trial: TrialRecord) -> bool:
    m = trial.measurement
    return m is not None and bool(trial.rungs) and math.isfinite(quality(trial)) and 0 < m.ratio < math.inf


def _in_layers(found: Sequence[TrialRecord], last: int) -> set[int]:
    layer = ranks([(quality(t), t.measurement.ratio if t.measurement else math.nan) for t in found])
    return {t.number for t, rank in zip(found, layer, strict=True) if rank <= last}


def _named(able: Sequence[TrialRecord], which: str) -> set[int]:
    try:
        numbers = {int(part) for part in which.split(",")}
    except ValueError:
        raise SelectionError(f"--which: {which!r}: must be {', '.join(WHICH)} or trial numbers with commas") from None
    if missing := sorted(numbers - {t.number for t in able}):
        raise SelectionError(f"--which: trial {missing[0]} is none that was measured and trained to the last rung")
    return numbers
