"""Which hard limits the infeasible trials broke, and by how much: a narrow miss is worth a thought."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from nas.limits import LIMITS, Compliance
from nas.records import Study, TrialRecord, TrialState


@dataclass(frozen=True)
class Miss:
    """One limit. An excess is the share of the bound by which it was missed: 0.1 is 10 % too much, or too little."""

    limit: str
    bound: float
    numbers: tuple[int, ...]  # of the trials that broke it, the narrowest first
    narrowest: float
    middle: float  # median excess


def misses(study: Study) -> tuple[Miss, ...]:
    """By limit, the most frequent first; a trial that broke two is in both."""
    found: list[Miss] = []
    infeasible = [t for t in study.trials if t.state is TrialState.INFEASIBLE]
    for name, bound in study.info.limits.items():
        broken = sorted((e, t.number) for t in infeasible if (e := _excess(t, name, bound)) is not None)
        if broken:
            excesses = [e for e, _ in broken]
            found.append(Miss(name, bound, tuple(n for _, n in broken), excesses[0], median(excesses)))
    return tuple(sorted(found, key=lambda m: -len(m.numbers)))


def _excess(trial: TrialRecord, name: str, bound: float) -> float | None:
    limit = LIMITS.get(name)
    value = limit.value(trial) if limit else None
    if limit is None or value is None or bound <= 0 or limit.compliance(value, bound) is not Compliance.BROKEN:
        return None
    return abs(value / bound - 1)
