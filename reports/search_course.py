"""How a search went.

Time by purpose, state, failures, missed limits, rank agreement of its rungs, noise of its timings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from nas.analysis.agreement import kendall
from nas.study.ending import is_finished, is_open
from nas.study.limits import LIMITS, Compliance
from nas.study.loop import OUT_OF_TIME
from nas.study.records import Measurement, StudyInfo, StudyRecord, TrialRecord, TrialState, trial_seconds
from nas.study.timing_doubts import PUBLISHED, has_interval

PURPOSES = {"teachers": "teacher cache"}  # counted when it was built, possibly for another study
REASON_CHARACTERS = 200  # the trial's card shows a traceback of 10 kB, a table does not
MIN_RANKED = 10  # candidates or models: the order of fewer agrees by luck


@dataclass(frozen=True)
class TimeSpent:
    """Seconds spent on one purpose, and their share of all recorded time."""

    purpose: str
    seconds: float
    share: float


@dataclass(frozen=True)
class RungCorrelation:
    """Kendall's tau-b between the distillation scores at two rungs, over the trials that reached both."""

    low: int
    high: int
    trials: int
    tau: float | None  # None where fewer than three trials, or equal scores, leave it undefined
    p_value: float | None


@dataclass(frozen=True)
class FailureReason:
    """Trials of one state that ended for the same reason, shortened to one line."""

    state: TrialState
    reason: str
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class LimitMisses:
    """Trials that broke one hard limit.

    An excess is the share of the bound by which a trial missed it: 0.1 is 10 % too much, or too little.
    """

    limit: str
    bound: float
    numbers: tuple[int, ...]  # of the trials, the narrowest miss first
    narrowest: float
    median: float


def time_spent(info: StudyInfo, trials: Sequence[TrialRecord]) -> tuple[TimeSpent, ...]:
    """Return the seconds by purpose, largest first.

    An open session has not recorded its own seconds: those of its trials stand in for them.
    """
    seconds = info.time_spent | (trial_seconds(trials, info.rung_steps) if is_open(info) else {})
    total = sum(seconds.values())
    rows = sorted(((PURPOSES.get(purpose, purpose), s) for purpose, s in seconds.items()), key=lambda item: -item[1])
    return tuple(TimeSpent(purpose, s, s / total if total > 0 else 0.0) for purpose, s in rows)


class SearchState(StrEnum):
    """Whether a search is over, and why not."""

    FINISHED = "finished"  # the budget is spent and no trial runs
    RUNNING = "running"  # a session runs, or was killed and could not record its end
    ENDED_EARLY = "ended early"  # the search gave up or was out of time; its last session recorded the reason
    INTERRUPTED = "interrupted"  # no session runs, and the search can be continued


def search_state(info: StudyInfo, evaluated: int, running: int) -> SearchState:
    """Return the state of a search.

    Args:
        info: description of the study.
        evaluated: trials that count against the budget.
        running: trials that run.
    """
    if is_finished(info, evaluated, running):
        return SearchState.FINISHED
    if is_open(info) or not info.sessions:
        return SearchState.RUNNING
    ending = info.sessions[-1].get("ending")
    # A session that is out of time leaves its trials in the state of running trials, for --resume.
    ended = ending == OUT_OF_TIME or (ending is not None and not running)
    return SearchState.ENDED_EARLY if ended else SearchState.INTERRUPTED


def rung_correlations(trials: Iterable[TrialRecord], rungs: int) -> tuple[RungCorrelation, ...]:
    """Correlate neighboring rungs, then every lower rung with the last."""
    scores = [{r.rung: r.score for r in t.rungs if math.isfinite(r.score)} for t in trials]
    neighbors = [(low, low + 1) for low in range(rungs - 1)]
    to_last = [(low, rungs - 1) for low in range(rungs - 2)]
    return tuple(_correlation(scores, low, high) for low, high in (*neighbors, *to_last))


def _correlation(scores: Sequence[dict[int, float]], low: int, high: int) -> RungCorrelation:
    pairs = [(q[low], q[high]) for q in scores if low in q and high in q]
    return RungCorrelation(low, high, len(pairs), *kendall(pairs))


def failure_reasons(trials: Iterable[TrialRecord]) -> tuple[FailureReason, ...]:
    """Group failed and infeasible trials by the first line of their reason, most frequent first."""
    groups: dict[tuple[TrialState, str], list[int]] = {}
    for trial in trials:
        if trial.state in (TrialState.FAILED, TrialState.INFEASIBLE):
            groups.setdefault((trial.state, _first_line(trial.reason)), []).append(trial.number)
    rows = [FailureReason(state, reason, tuple(numbers)) for (state, reason), numbers in groups.items()]
    return tuple(sorted(rows, key=lambda row: (row.state.value, -len(row.numbers))))


def _first_line(reason: str | None) -> str:
    first = next(iter((reason or "").strip().splitlines()), "no reason recorded")
    return first if len(first) <= REASON_CHARACTERS else first[:REASON_CHARACTERS] + " …"


def limit_misses(study: StudyRecord) -> tuple[LimitMisses, ...]:
    """Group infeasible trials by the hard limit they broke, most frequent first.

    A trial that broke two limits is in both groups.
    """
    rows: list[LimitMisses] = []
    infeasible = [t for t in study.trials if t.state is TrialState.INFEASIBLE]
    for name, bound in study.info.limits.items():
        misses = sorted((e, t.number) for t in infeasible if (e := _excess(t, name, bound)) is not None)
        if misses:
            excesses = [e for e, _ in misses]
            rows.append(LimitMisses(name, bound, tuple(n for _, n in misses), excesses[0], median(excesses)))
    return tuple(sorted(rows, key=lambda row: -len(row.numbers)))


def _excess(trial: TrialRecord, name: str, bound: float) -> float | None:
    limit = LIMITS.get(name)
    value = limit.value(trial) if limit else None
    if limit is None or value is None or bound <= 0 or limit.compliance(value, bound) is not Compliance.BROKEN:
        return None
    return abs(value / bound - 1)


def timing_half_width(measured: Iterable[Measurement]) -> float | None:
    """Return the median relative half-width of the 95 % intervals of relative throughput; None if nothing was timed.

    A difference in throughput must exceed it to mean anything. An interval that is not usable is infinitely wide.
    """
    widths = [
        (m.ratio_high - m.ratio_low) / 2 / m.ratio if has_interval(m) else math.inf
        for m in measured
        if m.ratio > 0 and m.arm != PUBLISHED
    ]
    return median(widths) if widths else None
