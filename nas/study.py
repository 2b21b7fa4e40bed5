"""The loop of a search, free of Ray and torch: what to run next, who trains on, when it is over.

A driver calls `next_trial` when a worker is free, `take` with every record that a worker sends, and `lost` when a
worker died. What failed is run again or not as `nas.failures` says. Everything is in the store before the call
returns, so a killed driver loses nothing.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nas.config import SearchConfig
from nas.failures import Failure, Then, then
from nas.pareto import coordinates, finished_points, front, hypervolume, reference_point
from nas.records import StudyInfo, TrialRecord, TrialState
from nas.rungs import goes_on
from nas.store import Store
from search_space import SPACES, ArchSpec, preset

_INFEASIBLE_LIMIT = 300  # infeasible trials in a row after which the search gives up
_FAILED_LIMIT = 20  # failed trials in a row: something is wrong with the machine, not with the architectures
_REPEATS_LIMIT = 20  # repeats in a row after which a new neighbour of the repeated architecture is taken

Listener = Callable[["StudyLoop", TrialRecord], None]


class StudyLoop:
    """One session of a study, started or resumed.

    Args:
        store: the study; trials that it left running are run again.
        listener: called after every record that was stored.
    """

    def __init__(self, store: Store, listener: Listener = lambda loop, record: None) -> None:
        self._store = store
        self._listener = listener
        self.info: StudyInfo = store.info
        self.config = SearchConfig.from_dict(self.info.config)
        self.space = SPACES[self.config.space]
        self.trials: dict[int, TrialRecord] = {t.number: t for t in store.trials()}
        self._mend()
        cut_off = [t for t in self.trials.values() if t.state is TrialState.RUNNING]
        self._again = [_bare(t) for t in cut_off]
        self._passed = {t.number: len(t.rungs) for t in cut_off}  # rungs after which it was to go on; they come again
        self._running: set[int] = set()
        self._in_a_row: Counter[TrialState] = Counter()
        self.gave_up: str | None = None  # why the search cannot go on
        self.exhausted: str | None = None  # why there is nothing left to ask
        self._began = time.monotonic()
        told_s = sum(session["wall_s"] for session in self.info.sessions)  # a killed session wrote none
        self._before_s = float(max(told_s, *(t.finished_s or 0.0 for t in self.trials.values()), 0.0))

    @property
    def elapsed_s(self) -> float:
        """Seconds that the study has run, over all its sessions."""
        return self._before_s + time.monotonic() - self._began

    @property
    def session_s(self) -> float:
        """Seconds since this session began."""
        return time.monotonic() - self._began

    @property
    def counts(self) -> Counter[TrialState]:
        """Trials per state, baselines aside."""
        return Counter(t.state for t in self.trials.values() if t.origin == "sampler")

    @property
    def evaluated(self) -> int:
        """Unique architectures evaluated: what the budget counts."""
        return sum(t.counts for t in self.trials.values())

    @property
    def running(self) -> int:
        """Trials that this session has handed out and not seen the end of."""
        return len(self._running)

    @property
    def finished(self) -> bool:
        """Nothing runs and nothing is left to start."""
        waiting = self._again or self._missing_baselines() or self._wants_more()
        return not self._running and (self.gave_up is not None or not waiting)

    def front_summary(self) -> tuple[int, float]:
        """Size of the current front and its hypervolume."""
        _, points = finished_points(list(self.trials.values()), self.info.objectives)
        return len(front(points)), hypervolume(points, reference_point(self.info.objectives))

    def next_trial(self) -> TrialRecord | None:
        """The next trial to run, already stored as running; None while there is nothing to start."""
        if self.gave_up is not None:
            return None
        if self._again:
            record = replace(self._again.pop(0), reason=None)
        elif names := self._missing_baselines():
            record = self._ask_baseline(names[0])
        elif self._wants_more():
            asked = self._ask_new()
            if asked is None:
                return None
            record = asked
        else:
            return None
        self._running.add(record.number)
        self._keep(record)
        return record

    def take(self, record: TrialRecord) -> bool:
        """Stores what a worker sent; False where the trial has to end here."""
        if record.state is TrialState.RUNNING and not self._goes_on(record):
            rung = record.rungs[-1].rung
            record = replace(
                record, state=TrialState.STOPPED, reason=f"not among the best 1/{self.config.eta} at rung {rung}"
            )
        if record.state is TrialState.FAILED and (what := then(record.failure, record.tries)) is not Then.FAILED:
            return self._put_off(record, what)
        self._keep(record)
        return record.state is TrialState.RUNNING

    def lost(self, number: int, failure: Failure, reason: str) -> None:
        """As `take`, where the worker of a running trial cannot speak for itself."""
        if number in self._running:
            self.take(replace(self.trials[number], state=TrialState.FAILED, failure=failure, reason=reason))

    def _put_off(self, record: TrialRecord, what: Then) -> bool:
        """A failed trial that runs once more, or in the next session where this one has to end."""
        if what is Then.END:
            self.gave_up = record.reason
        self._passed[record.number] = max(len(record.rungs), self._passed.get(record.number, 0))
        again = replace(record, state=TrialState.RUNNING, rungs=(), tries=record.tries + (what is Then.AGAIN))
        self._running.discard(record.number)
        self._again.append(again)
        self._keep(again)
        return False

    def close(self, ledger: dict[str, float]) -> None:
        """Ends the session: writes its length and the ledger."""
        session = {**self.info.sessions[-1], "wall_s": self.session_s}
        self.info = replace(self.info, sessions=(*self.info.sessions[:-1], session), ledger=ledger)
        self._store.save_info(self.info)

    def _mend(self) -> None:
        """Completes what a killed driver left half written: nothing it asked for or heard of is lost."""
        for record in self._store.half_told():
            self._store.save(record, self._values(record))
        baselines = {preset(name).arch_id: f"baseline:{name}" for name in self._missing_baselines()}
        for number, params in self._store.half_asked(self.space.choices()):
            spec = self.space.decode(params)
            self.trials[number] = _new(number, spec, baselines.get(spec.arch_id, "sampler"))
            self._store.save(self.trials[number])

    def _values(self, record: TrialRecord) -> tuple[float, float] | None:
        return coordinates(record, self.info.objectives, len(record.rungs) - 1) if record.rungs else None

    def _wants_more(self) -> bool:
        under_way = sum(self.trials[n].origin == "sampler" for n in self._running)
        return not self.gave_up and not self.exhausted and self.evaluated + under_way < self.config.budget

    def _missing_baselines(self) -> list[str]:
        have = {t.origin for t in self.trials.values()}
        return [name for name in self.config.baselines if f"baseline:{name}" not in have]

    def _goes_on(self, record: TrialRecord) -> bool:
        """Baselines and trials that were only measured always go on, and what went on once does so again."""
        if record.origin != "sampler" or len(record.rungs) <= self._passed.get(record.number, 0):
            return True
        rung = len(record.rungs) - 1
        others = [
            coordinates(t, self.info.objectives, rung)
            for t in self.trials.values()
            if t.number != record.number and t.origin == "sampler"
        ]
        point = coordinates(record, self.info.objectives, rung)
        return point is not None and goes_on(point, [p for p in others if p is not None], self.config.eta)

    def _keep(self, record: TrialRecord) -> None:
        if record.state is not TrialState.RUNNING:
            record = replace(record, finished_s=self.elapsed_s)
            self._running.discard(record.number)
            self._count_fruitless(record)
        self.trials[record.number] = record
        self._store.save(record, self._values(record))
        self._listener(self, record)

    def _count_fruitless(self, record: TrialRecord) -> None:
        if record.counts:
            self._in_a_row.clear()
        self._in_a_row[record.state] += 1
        for state, limit in ((TrialState.INFEASIBLE, _INFEASIBLE_LIMIT), (TrialState.FAILED, _FAILED_LIMIT)):
            if self._in_a_row[state] >= limit:
                self.gave_up = f"{limit} {state.value} architectures in a row; the last: {record.reason}"

    def _ask_baseline(self, name: str) -> TrialRecord:
        """A reference backbone; its parameters are told to the sampler where the space contains it."""
        spec = preset(name)
        inside = self.space.contains(spec)
        number, _ = self._store.ask(self.space.choices() if inside else {}, self.space.encode(spec) if inside else None)
        return _new(number, spec, f"baseline:{name}")

    def _ask_new(self) -> TrialRecord | None:
        """An architecture that the study does not have; repeats are recorded and never run."""
        seen = {t.arch_id for t in self.trials.values()}
        if len(seen) >= self.space.count():
            self.exhausted = f"the space has only {self.space.count()} architectures"
            return None
        fixed: dict[str, Any] | None = None
        for repeats in range(2 * _REPEATS_LIMIT):
            number, params = self._store.ask(self.space.choices(), fixed)
            spec = self.space.decode(params)
            if spec.arch_id not in seen:
                return _new(number, spec, "sampler")
            self._keep(replace(_new(number, spec, "sampler"), state=TrialState.DUPLICATE))
            if repeats >= _REPEATS_LIMIT:
                fixed = self.space.encode(self._unseen_neighbour(spec, seen, random.Random(number)))
        self.exhausted = "the sampler finds no new architecture"
        return None

    def _unseen_neighbour(self, spec: ArchSpec, seen: set[str], rng: random.Random) -> ArchSpec:
        for _ in range(1000):
            spec = self.space.mutate(spec, rng)
            if spec.arch_id not in seen:
                break
        return spec


def _new(number: int, spec: ArchSpec, origin: str) -> TrialRecord:
    return TrialRecord(
        number=number, arch_id=spec.arch_id, spec=spec.to_dict(), origin=origin, state=TrialState.RUNNING
    )


def _bare(record: TrialRecord) -> TrialRecord:
    """A trial that was cut off: its rungs come back from its checkpoint, or are trained again."""
    return replace(record, rungs=(), reason=None)
