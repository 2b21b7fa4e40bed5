"""Tallies of a study that need no front: where the budget went, what failed, whether short budgets can be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from nas.analysis.agreement import kendall
from nas.ledger import spent
from nas.records import Measurement, StudyInfo, TrialRecord, TrialState

PUBLISHED = "published"  # arm of what nas.replay took from a table: nothing was timed
PURPOSES = {"teachers": "teachers, when their cache was built"}  # maybe by another study, long ago
REASON_CHARACTERS = 200  # a traceback of 10 kB belongs into the trial's card, not into a table


@dataclass(frozen=True)
class LedgerRow:
    """Seconds spent on one purpose, and their share of everything that was booked."""

    purpose: str
    seconds: float
    share: float


@dataclass(frozen=True)
class Correlation:
    """Kendall's tau-b between the qualities at two rungs, over the trials that reached both."""

    low: int
    high: int
    trials: int
    tau: float | None  # None where fewer than three trials, or a constant, leave it undefined
    p_value: float | None


@dataclass(frozen=True)
class ReasonRow:
    """Trials of one state that ended for the same reason, shortened to one line."""

    state: TrialState
    reason: str
    numbers: tuple[int, ...]


def budget_ledger(info: StudyInfo, trials: Sequence[TrialRecord]) -> tuple[LedgerRow, ...]:
    """The study's ledger, largest first; by the trials while a session has not written its own (or never will)."""
    ledger = info.ledger | (spent(trials, info.rung_steps) if is_open(info) else {})
    total = sum(ledger.values())
    rows = sorted(((PURPOSES.get(purpose, purpose), s) for purpose, s in ledger.items()), key=lambda item: -item[1])
    return tuple(LedgerRow(purpose, s, s / total if total > 0 else 0.0) for purpose, s in rows)


def is_open(info: StudyInfo) -> bool:
    """Whether a session runs, or was killed: both have not written their length."""
    return any(session.get("wall_s") == 0 for session in info.sessions)


def rung_correlations(trials: Iterable[TrialRecord], rungs: int) -> tuple[Correlation, ...]:
    """Neighbouring rungs, then every lower rung against the last."""
    known = [{r.rung: r.quality for r in t.rungs if math.isfinite(r.quality)} for t in trials]
    neighbours = [(low, low + 1) for low in range(rungs - 1)]
    to_last = [(low, rungs - 1) for low in range(rungs - 2)]
    return tuple(_correlation(known, low, high) for low, high in (*neighbours, *to_last))


def _correlation(known: Sequence[dict[int, float]], low: int, high: int) -> Correlation:
    pairs = [(q[low], q[high]) for q in known if low in q and high in q]
    return Correlation(low, high, len(pairs), *kendall(pairs))


def reasons(trials: Iterable[TrialRecord]) -> tuple[ReasonRow, ...]:
    """Failed and infeasible trials by their reason's first line, most frequent first."""
    groups: dict[tuple[TrialState, str], list[int]] = {}
    for trial in trials:
        if trial.state in (TrialState.FAILED, TrialState.INFEASIBLE):
            groups.setdefault((trial.state, _one_line(trial.reason)), []).append(trial.number)
    rows = [ReasonRow(state, reason, tuple(numbers)) for (state, reason), numbers in groups.items()]
    return tuple(sorted(rows, key=lambda row: (row.state.value, -len(row.numbers))))


def _one_line(reason: str | None) -> str:
    first = next(iter((reason or "").strip().splitlines()), "no reason recorded")
    return first if len(first) <= REASON_CHARACTERS else first[:REASON_CHARACTERS] + " …"


def timing_half_width(measured: Iterable[Measurement]) -> float | None:
    """Median relative half-width of the throughput ratio's 95 % interval: what a speed difference must exceed.

    Without what was published and not timed.
    """
    widths = [(m.ratio_high - m.ratio_low) / 2 / m.ratio for m in measured if m.ratio > 0 and m.arm != PUBLISHED]
    return median(widths) if widths else None
