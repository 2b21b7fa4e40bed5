"""The loop of a search, free of Ray and torch: which trial runs next, which trial continues, when the search ends.

A driver calls `next_trial` when a worker is free, `report` with every record that a worker sends, and `report_lost`
when a worker died. `nas.study.failures` decides whether a failed trial is run again. Every call stores its outcome
before it returns, so a killed driver loses nothing. Several drivers may work on one study: one asks at a time, and each
reads what the others have stored.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from nas.study.architectures import Architecture, Architectures
from nas.study.config import SearchConfig
from nas.study.failures import Failure, RetryDecision, decide_retry
from nas.study.halving import should_continue
from nas.study.objectives import unknown_before_training
from nas.study.pareto import coordinates
from nas.study.records import StudyInfo, TrialRecord, TrialState
from nas.study.trial_table import TrialTable
from search_space import SPACES, preset

_INFEASIBLE_LIMIT = 300  # infeasible trials in a row after which the search gives up
_FAILED_LIMIT = 20  # failed trials in a row: something is wrong with the machine, not with the architectures
_LOOK_S = 1.0  # how often a driver with nothing to start looks for work that others leave

Result = TypeVar("Result")
Listener = Callable[["StudyLoop", TrialRecord], None]


class StudyStore(Protocol):
    """The study that a `StudyLoop` works on: a `Store`, or the `MemoryStore` of a simulated search."""

    notify: Callable[[str], None]

    @property
    def driver(self) -> str:
        """Return this driver's name among those that work on the study."""

    @property
    def info(self) -> StudyInfo:
        """Return what the study is about."""

    def update_info(self, change: Callable[[StudyInfo], StudyInfo]) -> StudyInfo:
        """Store what `change` makes of the study's description, and return it."""

    def retry_while_unavailable(self, work: Callable[[], Result]) -> Result:
        """Return `work()`, called again while the database is away."""

    def register_driver(self) -> None:
        """Tell other drivers that this one is alive."""

    def unregister_driver(self) -> None:
        """Leave the running trials of this driver to others."""

    def may_take_over(self, driver: str | None) -> bool:
        """Return whether the running trials of `driver` may be taken over."""

    def ask(
        self, choices: Mapping[str, Sequence[Any]], fixed: Mapping[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Return the number of a new trial and its parameters: the sampler's, or `fixed`."""

    def save(self, record: TrialRecord, values: Sequence[float] | None = None) -> bool:
        """Write a trial and, where it is complete, its objectives; return False where it is another driver's."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Keep other drivers out, and write everything at the end or nothing."""

    def claim(self, number: int) -> bool:
        """Make a running trial this driver's; return False where it is over."""

    def changes(self, running: Collection[int] = ()) -> list[tuple[TrialRecord, str | None]]:
        """Return trials, with their drivers, that are new since the last call or among `running`."""


class StudyLoop:
    """One session of a study, started or resumed, alone or beside other drivers.

    Args:
        store: the study; trials that this process or a dead driver left running are run again.
        listener: called after every record that this driver stored.
        space: where it is none of `SPACES`.
        clock: returns seconds; every decision about time uses it. A simulation has its own.
    """

    def __init__(
        self,
        store: StudyStore,
        listener: Listener = lambda loop, record: None,
        *,
        space: Architectures | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._listener = listener
        store.retry_while_unavailable(store.register_driver)
        self.info: StudyInfo = store.retry_while_unavailable(lambda: store.info)
        self.config = SearchConfig.from_dict(self.info.config)
        self.space: Architectures = space or SPACES[self.config.space]
        self._clock = clock
        self._proposer = TrialProposer(store, self.space, self.config.baselines)
        self.trials = TrialTable(self.info.objectives)
        self._drivers: dict[int, str | None] = {}  # of the trials: whose they are
        self._running: set[int] = set()
        self._put_off: set[int] = set()  # trials that failed here and run once more
        self._waits = False
        self._in_a_row: Counter[TrialState] = Counter()
        self.gave_up: str | None = None  # why the search cannot go on
        self.exhausted: str | None = None  # why there is nothing left to ask
        store.retry_while_unavailable(self._look)
        self._began = clock()
        self._found_nothing = -math.inf  # when this driver last looked in vain for work that others leave
        finished_s = (t.finished_s or 0.0 for t in self.trials.values())  # a killed session wrote no length
        self._before_s = max(elapsed(self.info.sessions), self._reached_beside(), *finished_s)
        self._session = {"started": _now(), "began_s": self._before_s, "driver": store.driver, "wall_s": 0.0}
        self._session["budget"] = self.config.budget
        self.info = store.retry_while_unavailable(lambda: store.update_info(self._begun))

    @property
    def elapsed_s(self) -> float:
        """Seconds that the study has run, over all its sessions."""
        return self._before_s + self._clock() - self._began

    @property
    def session_s(self) -> float:
        """Seconds since this session began."""
        return self._clock() - self._began

    @property
    def counts(self) -> Counter[TrialState]:
        """Trials per state, baselines aside."""
        return self.trials.counts

    @property
    def evaluated(self) -> int:
        """Unique architectures evaluated, by all drivers: what the budget counts."""
        return self.trials.evaluated

    @property
    def running(self) -> int:
        """Trials that this session has handed out and not seen the end of."""
        return len(self._running)

    @property
    def finished(self) -> bool:
        """Nothing runs and nothing is left to start, here or in another driver."""
        if self._running:
            return False
        if self.gave_up:
            return True
        if self.trials.running or self._missing_baselines() or self._wants_more():
            return False
        return not self._store.retry_while_unavailable(self._was_extended)

    def front_summary(self) -> tuple[int, float]:
        """Size of the current front and its hypervolume."""
        return self.trials.front_summary()

    def next_trial(self) -> TrialRecord | None:
        """Return the next trial to run, already stored as running; None while there is nothing to start.

        While other drivers have trials under way, it looks once a second for work that they leave.
        """
        if self.gave_up:
            return None
        if not (self._put_off or self._missing_baselines() or self._wants_more() or self._may_find()):
            return None
        for record in self._store.retry_while_unavailable(self._start):
            self._take_in(record)
            if record.state is TrialState.RUNNING:
                self._running.add(record.number)
                self._put_off.discard(record.number)
                return replace(record, rungs=())  # they come again: from a checkpoint, or trained anew
        self._found_nothing = self._clock()
        return None

    def report(self, record: TrialRecord) -> bool:
        """Stores what a worker sent; False where the trial has to end here."""
        just_measured = record.state is TrialState.RUNNING and record.measurement and not record.rungs
        if just_measured and (unknown := unknown_before_training(record, self.info.objectives)):
            record = replace(record, state=TrialState.INFEASIBLE, reason=f"unknown of this device: {unknown[0]}")
        if record.state is TrialState.RUNNING and record.rungs:
            self._store.retry_while_unavailable(self._look)
            if not self._goes_on(record):
                reason = f"not among the best 1/{self.config.eta} at rung {record.rungs[-1].rung}"
                record = replace(record, state=TrialState.STOPPED, reason=reason)
        if (
            record.state is TrialState.FAILED
            and (decision := decide_retry(record.failure, record.tries)) is not RetryDecision.FAILED
        ):
            self._run_again(record, decision)
            return False
        return self._keep(record) and record.state is TrialState.RUNNING

    def report_lost(self, number: int, failure: Failure, reason: str) -> None:
        """As `report`, where the worker of a running trial cannot speak for itself."""
        if number in self._running:
            self.report(replace(self.trials[number], state=TrialState.FAILED, failure=failure, reason=reason))

    def release(self, number: int) -> None:
        """A trial that was handed out and that no worker could begin: it will be handed out again."""
        self._running.discard(number)
        self._put_off.add(number)

    def forget_finished(self, forget: Callable[[Collection[str]], None]) -> None:
        """Has `forget` take away what no architecture under way needs, unless another driver that lives has some.

        Nobody can begin a trial meanwhile. `forget` may be called twice.
        """

        def swept() -> None:
            with self._store.exclusive():
                self._look()
                if not self._beside():
                    forget({self.trials[number].arch_id for number in self.trials.running})

        self._store.retry_while_unavailable(swept)

    def worker_seconds(self, workers: int) -> float:
        """Seconds of all workers of all sessions, those side by side as well; `workers` are this session's."""
        sessions = self._store.retry_while_unavailable(lambda: self._store.info).sessions
        ended: float = sum(session["wall_s"] * session.get("workers", workers) for session in sessions)
        return max(self.elapsed_s * workers, self.session_s * workers + ended)  # a killed session wrote no length

    def close(self, time_spent: dict[str, float], workers: int = 1) -> None:
        """Ends the session: writes its length and the time_spent; what it left running is anybody's."""
        over = {**self._session, "wall_s": self.session_s, "workers": workers}
        if why := self.gave_up or self.exhausted:
            over["ending"] = why  # before the budget was spent

        def ended(info: StudyInfo) -> StudyInfo:
            return replace(
                info, time_spent=time_spent, sessions=tuple(over if s == self._session else s for s in info.sessions)
            )

        self.info = self._store.retry_while_unavailable(lambda: self._store.update_info(ended))
        self._session = over
        self._store.unregister_driver()

    def _run_again(self, record: TrialRecord, what: RetryDecision) -> None:
        """A failed trial that runs once more, or in the next session where this one has to end."""
        if what is RetryDecision.END:
            self.gave_up = record.reason
        again = replace(record, state=TrialState.RUNNING, tries=record.tries + (what is RetryDecision.AGAIN))
        if self._keep(again):
            self._running.discard(record.number)
            self._put_off.add(record.number)

    def _begun(self, info: StudyInfo) -> StudyInfo:
        if self._session in info.sessions:
            return info  # the database went away after it had it
        return replace(info, sessions=(*info.sessions, self._session))

    def _start(self) -> list[TrialRecord]:
        """Asks for a trial, alone; what was asked twice comes before it. Changes nothing but the store."""
        with self._store.exclusive():
            self._look()
            for number in sorted(self.trials.running - self._running):
                if self._store.may_take_over(self._drivers.get(number)) and self._store.claim(number):
                    asked = [replace(self.trials[number], reason=None)]
                    break
            else:
                asked = []
                if names := self._missing_baselines():
                    asked = [self._proposer.baseline(names[0])]
                elif self._wants_more() or self._was_extended():
                    asked, self.exhausted = self._proposer.new(self.trials.architectures, self.elapsed_s)
            if asked and asked[-1].state is TrialState.RUNNING:
                self._store.save(asked[-1])
        return asked

    def _look(self) -> None:
        """Takes in what other drivers did."""
        for record, driver in self._store.changes(self.trials.running - self._running):
            self.trials[record.number] = record
            self._drivers[record.number] = driver

    def _beside(self) -> set[str]:
        """Other drivers that live and have trials under way."""
        others = {self._drivers.get(number) for number in self.trials.running - self._running}
        return {driver for driver in others if driver is not None and not self._store.may_take_over(driver)}

    def _reached_beside(self) -> float:
        """Seconds that the study has run, by the clocks of other drivers that live: they wrote no length yet."""
        living = {driver.rpartition(":")[2] for driver in self._store.retry_while_unavailable(self._beside)}
        begun = (s for s in self.info.sessions if s.get("driver") in living)
        return max((s["began_s"] + _seconds_since(s["started"]) for s in begun), default=0.0)

    def _may_find(self) -> bool:
        """Return whether it is time to look for work that other drivers leave."""
        if not self.trials.running - self._running:
            return False
        if not self._running and not self._waits:
            self._waits = True
            self._store.notify("nothing is left to start here: waiting for the trials of other drivers")
        return self._clock() - self._found_nothing >= _LOOK_S

    def _wants_more(self) -> bool:
        wanted = self.evaluated + self.trials.under_way < self.config.budget
        return wanted and not self.gave_up and not self.exhausted

    def _was_extended(self) -> bool:
        """Whether there is more to do, for another command raised the budget."""
        budget = self._store.info.config["budget"]
        self.config = replace(self.config, budget=budget)
        return self._wants_more()

    def _missing_baselines(self) -> list[str]:
        return [name for name in self.config.baselines if name not in self.trials.baselines]

    def _goes_on(self, record: TrialRecord) -> bool:
        """Baselines always go on, and what went on once, before a kill, does so again."""
        if record.baseline or len(record.rungs) <= len(self.trials[record.number].rungs):
            return True
        rung = len(record.rungs) - 1
        point = coordinates(record, self.info.objectives, rung)
        return point is not None and should_continue(
            point, self.trials.points(rung, but=record.number), self.config.eta
        )

    def _keep(self, record: TrialRecord) -> bool:
        """Stores a record, with the rungs that are still to come again; False where the trial is another driver's."""
        record = replace(record, rungs=(*record.rungs, *self.trials[record.number].rungs[len(record.rungs) :]))
        if record.state is not TrialState.RUNNING:
            record = replace(record, finished_s=self.elapsed_s)
        values = coordinates(record, self.info.objectives, len(record.rungs) - 1) if record.rungs else None
        ours = self._store.retry_while_unavailable(lambda: self._store.save(record, values))
        if not ours:
            self._running.discard(record.number)
            return False
        self._take_in(record)
        return True

    def _take_in(self, record: TrialRecord) -> None:
        self.trials[record.number] = record
        if record.state is not TrialState.RUNNING:
            self._running.discard(record.number)
        self._count_fruitless(record)
        self._listener(self, record)

    def _count_fruitless(self, record: TrialRecord) -> None:
        if record.state is TrialState.RUNNING:
            if record.measurement:  # it is within the limits: many workers may end none for long
                del self._in_a_row[TrialState.INFEASIBLE]
            return
        if record.counts:
            self._in_a_row.clear()
        self._in_a_row[record.state] += 1
        for state, limit in ((TrialState.INFEASIBLE, _INFEASIBLE_LIMIT), (TrialState.FAILED, _FAILED_LIMIT)):
            if self._in_a_row[state] >= limit:
                self.gave_up = f"{limit} {state.value} architectures in a row; the last: {record.reason}"


def elapsed(sessions: Sequence[Mapping[str, Any]]) -> float:
    """Seconds from the first session's start to the last one's end; sessions may have run side by side."""
    end = longest = 0.0
    for session in sessions:
        end = session.get("began_s", end) + session["wall_s"]  # the first sessions of old studies came one by one
        longest = max(longest, end)
    return longest


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _seconds_since(moment: str) -> float:
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())


_REPEATS_LIMIT = 20  # repeats in a row after which a new neighbour of the repeated architecture is taken


class TrialProposer:
    """Asks the store's sampler for a driver that is alone with the study (`StudyStore.exclusive`).

    Args:
        baselines: names of the study's reference backbones.
    """

    def __init__(self, store: StudyStore, space: Architectures, baselines: Sequence[str] = ()) -> None:
        self._store, self._space = store, space
        specs = [preset(name) for name in baselines]
        self._foreign = frozenset(spec.arch_id for spec in specs if not space.contains(spec))  # not in the space

    def baseline(self, name: str) -> TrialRecord:
        """A reference backbone; its parameters are told to the sampler where the space contains it."""
        spec = preset(name)
        inside = self._space.contains(spec)
        number, _ = self._store.ask(
            self._space.choices() if inside else {}, self._space.encode(spec) if inside else None
        )
        return _new(number, spec, baseline=name)

    def new(self, seen: Set[str], now_s: float) -> tuple[list[TrialRecord], str | None]:
        """An architecture that is not `seen`, after the repeats, which are stored and never run; or why there is none.

        `now_s` is when the repeats end, in seconds of the study.
        """
        asked: list[TrialRecord] = []
        if len(seen) - len(self._foreign & seen) >= self._space.count():
            return asked, f"the space has only {self._space.count()} architectures"
        fixed: dict[str, Any] | None = None
        for repeats in range(2 * _REPEATS_LIMIT):
            number, params = self._store.ask(self._space.choices(), fixed)
            spec = self._space.decode(params)
            record = _new(number, spec)
            if spec.arch_id not in seen:
                return [*asked, record], None
            asked.append(replace(record, state=TrialState.DUPLICATE, finished_s=now_s))
            self._store.save(asked[-1])  # now: the sampler's next look is to see it
            if repeats >= _REPEATS_LIMIT:
                fixed = self._space.encode(self._unseen_neighbour(spec, seen, random.Random(number)))
        return asked, "the sampler finds no new architecture"

    def _unseen_neighbour(self, spec: Architecture, seen: Set[str], rng: random.Random) -> Architecture:
        for _ in range(1000):
            spec = self._space.mutate(spec, rng)
            if spec.arch_id not in seen:
                break
        return spec


def _new(number: int, spec: Architecture, baseline: str | None = None) -> TrialRecord:
    return TrialRecord(number, spec.arch_id, spec.to_dict(), TrialState.RUNNING, baseline)
