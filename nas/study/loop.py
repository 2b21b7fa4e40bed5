"""The loop of a search, free of Ray and torch: which trial runs next, which trial continues, when the search ends.

A driver calls `next_trial` when a worker is free, `report` with every record that a worker sends, and `report_lost`
when a worker died. `nas.study.failures` decides whether a failed trial is run again. Every call stores its outcome
before it returns, so a killed driver loses nothing. A study has one driver at a time.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime

from nas.study.config import SearchConfig, is_of_timm
from nas.study.convergence import gain_over_noise, is_below_noise
from nas.study.failing_nodes import FailingNodes
from nas.study.failures import MET_BY_ALL, Failure, RetryDecision, decide_retry
from nas.study.objectives import unknown_before_training
from nas.study.pareto import coordinates
from nas.study.promotion import reason_to_stop
from nas.study.proposer import TrialProposer
from nas.study.records import StudyInfo, TrialRecord, TrialState
from nas.study.space_protocol import SearchSpace
from nas.study.study_store import StudyStore
from nas.study.trial_table import TrialTable

_INFEASIBLE_LIMIT = 300  # infeasible trials in a row after which the search gives up
_FAILED_LIMIT = 20  # failed trials in a row: something is wrong with the machine, not with the architectures
CONVERGED = "the search has converged"  # beginning of the reason
OUT_OF_TIME = "the time of --max-hours was over, and --resume continues the search"

Listener = Callable[["StudyLoop", TrialRecord], None]


class StudyLoop:
    """One session of a study, started or resumed.

    Args:
        store: The study. Running trials of earlier sessions run again.
        listener: Called after every record that is stored.
        space: The search space, if it is not one of `SPACES`.
        clock: Returns seconds, for every decision about time. A simulation passes its own clock.
        deadline_s: Time of `clock` from which on this session starts no trial and lets none pass a rung. A trial that
            reaches one is left to a later session, which continues from its checkpoint.
        until_converged: Whether this session proposes no architecture once the search has converged, see
            `nas.study.convergence`.

    Attributes:
        trials: Baselines and sampled architectures.
        scale: Comparison networks, by numbers below 0; a running one may not have begun.
        gave_up: Why the search cannot continue; None while it can.
        exhausted: Why there is no new architecture to evaluate; None while there is one.
        converged: Why this session proposes no more architectures; None while it does.
    """

    def __init__(
        self,
        store: StudyStore,
        listener: Listener = lambda loop, record: None,
        *,
        space: SearchSpace | None = None,
        clock: Callable[[], float] = time.monotonic,
        deadline_s: float = math.inf,
        until_converged: bool = False,
    ) -> None:
        self._store = store
        self._listener = listener
        self.info: StudyInfo = store.retry_while_unavailable(lambda: store.info)
        self.config = SearchConfig.from_dict(self.info.config)
        self.space: SearchSpace = space or self.config.search_space
        self._clock, self._deadline_s, self._until_converged = clock, deadline_s, until_converged
        baselines = {name: self.config.spec(name) for name in self.config.baselines}
        self._proposer = TrialProposer(store, self.space, baselines)
        measured = {record.scale: record for record in store.retry_while_unavailable(store.scale)}
        self.scale = {
            -n: replace(measured.get(name) or _comparison_network(name, self.config), number=-n)
            for n, name in enumerate(self.config.comparison_networks, 1)
        }
        self.trials = TrialTable(self.info.objectives)
        self._running: set[int] = set()
        self._began_s: dict[int, float] = {}  # trial number -> when this session last started it
        self._failing_nodes = FailingNodes()
        self._consecutive: Counter[TrialState] = Counter()  # trials since the last evaluated one, by their state
        self.gave_up: str | None = None
        self.exhausted: str | None = None
        self.converged: str | None = None
        store.retry_while_unavailable(self._refresh)
        self._started = clock()
        finished_s = (t.finished_s or 0.0 for t in self.trials.values())  # a killed session has no length
        self._earlier_s: float = max((0.0, *(s["began_s"] + s["wall_s"] for s in self.info.sessions), *finished_s))
        started = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._session = {"started": started, "began_s": self._earlier_s, "wall_s": 0.0, "budget": self.config.budget}
        self.info = store.retry_while_unavailable(lambda: store.update_info(self._with_session))

    @property
    def elapsed_s(self) -> float:
        """Return the seconds that the study has run, over all its sessions."""
        return self._earlier_s + self._clock() - self._started

    @property
    def session_s(self) -> float:
        """Return the seconds since this session began."""
        return self._clock() - self._started

    @property
    def counts(self) -> Counter[TrialState]:
        """Return the number of trials in each state, without baselines."""
        return self.trials.counts

    @property
    def evaluated(self) -> int:
        """Return the number of unique architectures that have been evaluated; the budget counts these."""
        return self.trials.evaluated

    @property
    def running(self) -> int:
        """Return the number of trials that this session has started and that have not ended."""
        return len(self._running)

    @property
    def running_trials(self) -> list[TrialRecord]:
        """Return the running trials of this session, the comparison networks first; another thread may ask."""
        return [self.record(number) for number in sorted(self._running)]

    @property
    def interrupted(self) -> list[TrialRecord]:
        """Return the running trials of earlier sessions, which run again, and the one that was proposed ahead."""
        return [self.trials[n] for n in self._interrupted()]

    @property
    def left_s(self) -> float:
        """Return the seconds until the deadline of this session; infinity without one."""
        return max(0.0, self._deadline_s - self._clock())

    @property
    def out_of_time(self) -> str | None:
        """Return why this session leaves trials to a later one: its deadline has passed; None if it leaves none."""
        return OUT_OF_TIME if not self.left_s and self._has_work() else None

    @property
    def ending(self) -> str | None:
        """Return why the search ends before its budget is spent; None if it does not."""
        return self.gave_up or self.exhausted or self.converged or self.out_of_time

    @property
    def finished(self) -> bool:
        """Return whether this session is over: none of its trials runs, and it has none to start."""
        if self._running:
            return False
        return bool(self.gave_up or self.out_of_time or not self._has_work())

    @property
    def gain_over_noise(self) -> float | None:
        """Return the latest expected gain in units of the noise, see `nas.study.convergence`; None while unknown."""
        return gain_over_noise(self.trials)

    @property
    def left_out(self) -> dict[str, str]:
        """Return the nodes, as workers are named after them, that get no trial now, and why."""
        return self._failing_nodes.left_out(self._clock())

    @property
    def running_on_left_out(self) -> Counter[str]:
        """Return how many trials of this session still run on each node that is left out."""
        return self._failing_nodes.still_running(self._running, self._clock())

    def front_summary(self) -> tuple[int, float]:
        """Return the size of the current Pareto front and its hypervolume."""
        return self.trials.front_summary()

    def next_trial(self) -> TrialRecord | None:
        """Return the next trial to run, already stored as running; None while there is no trial to start.

        The comparison networks come first; they are stored when they have been measured.
        """
        if self.gave_up or not self.left_s:
            return None
        if unmeasured := self._unmeasured_scale():
            network = self.scale[unmeasured[0].number] = replace(unmeasured[0], reason=None)  # of an earlier run
            self._start(network.number)
            return network
        if not (self._interrupted() or self._missing_baselines() or self._has_budget()):
            return None
        for record in self._store.retry_while_unavailable(self._take_or_ask):
            self._update(record)
            if record.state is TrialState.RUNNING:
                self._start(record.number)
                return replace(record, rungs=())  # the worker reports them again, from a checkpoint or a new training
        return None

    def propose_ahead(self) -> None:
        """Propose the next trial while the workers are busy, and store it: `next_trial` returns it at once.

        It waits in the study as a trial of an interrupted session does, one at a time. Of the trials that run when it
        is proposed, the sampler knows no result.
        """
        waiting = self._interrupted() or self._unmeasured_scale()
        if waiting or self.gave_up or not self.left_s or not (self._missing_baselines() or self._has_budget()):
            return
        for record in self._store.retry_while_unavailable(self._take_or_ask):
            self._update(record)

    def is_wanted(self, number: int) -> bool:
        """Return True: what has begun is evaluated."""
        return True

    def record(self, number: int) -> TrialRecord:
        """Return the record of a trial, or of a comparison network."""
        return self.scale[number] if number < 0 else self.trials[number]

    def report(self, record: TrialRecord) -> bool:
        """Store the record that a worker sent; return False if the trial has to end."""
        if self._just_measured(record) and (unknown := unknown_before_training(record, self.info.objectives)):
            record = replace(record, state=TrialState.INFEASIBLE, reason=f"this device does not report {unknown[0]}")
        self._failing_nodes.note(record, self._clock())
        if record.state is TrialState.RUNNING and record.rungs and (reason := self._reason_to_stop(record)) is not None:
            record = replace(record, state=TrialState.STOPPED, reason=reason)
        if record.state is TrialState.FAILED and (decision := self._decide_retry(record)) is not RetryDecision.FAILED:
            self._requeue(record, decision)
            return False
        self._store_record(record)
        if record.state is not TrialState.RUNNING:
            return False
        if self.left_s:
            return True
        self._running.discard(record.number)
        return False

    def report_lost(self, number: int, failure: Failure, reason: str) -> None:
        """Report a running trial as failed after its worker was lost."""
        if number in self._running:
            self.report(replace(self.record(number), state=TrialState.FAILED, failure=failure, reason=reason))

    def release(self, number: int) -> None:
        """Return a trial that no worker could begin to the queue: `next_trial` returns it again."""
        self._running.discard(number)

    def clean_up(self, delete_all_but: Callable[[Collection[str]], None]) -> None:
        """Call `delete_all_but` with the ids of the running architectures."""
        delete_all_but({self.trials[number].arch_id for number in self.trials.running})

    def worker_seconds(self, workers: int) -> float:
        """Return the seconds of all workers in all sessions.

        Args:
            workers: Workers of this session; earlier time that is in no ended session counts with as many.
        """
        sessions = self.info.sessions
        ended_s: float = sum(session["wall_s"] * session.get("workers", workers) for session in sessions)
        killed_s: float = self._earlier_s - sum(session["wall_s"] for session in sessions)
        return ended_s + (max(0.0, killed_s) + self.session_s) * workers

    def close(self, time_spent: dict[str, float], workers: int = 1) -> None:
        """End the session: write its length and the time spent, and leave its running trials to a later one.

        Args:
            time_spent: Seconds of all workers by purpose, over all sessions.
            workers: Workers of this session.
        """
        closed = {**self._session, "wall_s": self.session_s, "workers": workers}
        if self.ending:
            closed["ending"] = self.ending

        def close_session(info: StudyInfo) -> StudyInfo:
            others = (session for session in info.sessions if session not in (self._session, closed))
            return replace(info, time_spent=time_spent, sessions=(*others, closed))

        self.info = self._store.retry_while_unavailable(lambda: self._store.update_info(close_session))
        self._session = closed

    def _decide_retry(self, record: TrialRecord) -> RetryDecision:
        required = record.baseline is not None or record.scale == self.config.reference
        stored = self.record(record.number)
        met_before, rungs = stored.failure is record.failure, max(len(record.rungs), len(stored.rungs))
        confirmed = met_before or self._failing_nodes.met_elsewhere(record)
        return decide_retry(record.failure, record.tries, required, confirmed, rungs)

    def _requeue(self, record: TrialRecord, decision: RetryDecision) -> None:
        """Let a failed trial run again: in this session, or in the next one if this one has to end."""
        if decision is RetryDecision.END:
            self.gave_up = record.reason
            if record.failure not in MET_BY_ALL:
                name = record.baseline or record.scale
                self.gave_up = f"{name} is needed and failed in each of {record.tries} runs; the last: {record.reason}"
        again = replace(record, state=TrialState.RUNNING, tries=record.tries + (decision is RetryDecision.AGAIN))
        self._store_record(again)
        self._running.discard(record.number)

    def _with_session(self, info: StudyInfo) -> StudyInfo:
        if self._session in info.sessions:
            return info  # an earlier call has stored it, and the database became unavailable before its answer
        killed = ({**session, "killed": True} if not session["wall_s"] else session for session in info.sessions)
        return replace(info, sessions=(*killed, self._session))

    def _take_or_ask(self) -> list[TrialRecord]:
        """Return a trial to start, after the repeats that the sampler proposed before it.

        The call is repeated after an outage of the database, so it leaves the start of the trial to `next_trial`.
        """
        with self._store.transaction():
            self._refresh()
            if interrupted := self._interrupted():
                trials = [replace(self.trials[interrupted[0]], reason=None)]
            elif names := self._missing_baselines():
                trials = [self._proposer.baseline(names[0])]
            elif self._has_budget() and not self._ends_converged():
                trials, self.exhausted = self._proposer.new(self.trials.architectures, self.elapsed_s)
            else:
                trials = []
            if trials and trials[-1].state is TrialState.RUNNING:
                self._store.save(trials[-1])
        return trials

    def _refresh(self) -> None:
        """Read the trials that are new: all of them at first, later those of a call whose answer was lost."""
        for record in self._store.new_trials():
            self.trials[record.number] = record

    def _interrupted(self) -> list[int]:
        """Return the numbers of the trials that are to run again, and of the one that was proposed ahead."""
        return sorted(self.trials.running - self._running)

    def _start(self, number: int) -> None:
        self._running.add(number)
        self._began_s[number] = self.elapsed_s

    def _has_work(self) -> bool:
        """Return whether a trial runs, or one is left to start."""
        left = self._unmeasured_scale() or self.trials.running or self._missing_baselines() or self._has_budget()
        return bool(left)

    def _has_budget(self) -> bool:
        left = self.evaluated + self.trials.pending < self.config.budget
        return left and not (self.gave_up or self.exhausted or self.converged)

    def _ends_converged(self) -> bool:
        """Return whether this session ends because the search has converged, and note why."""
        ratio = self.gain_over_noise if self._until_converged else None
        if ratio is not None and is_below_noise(ratio):
            shown = math.floor(100 * ratio) / 100  # below 1, as the ratio is
            self.converged = (
                f"{CONVERGED}: the next architecture is expected to raise the hypervolume by {shown:.2f} times what "
                "the noise of seeds and timings alone would"
            )
        return self.converged is not None

    def _unmeasured_scale(self) -> list[TrialRecord]:
        """Return the comparison networks that are to be measured and that no worker measures."""
        return [r for r in self.scale.values() if r.state is TrialState.RUNNING and r.number not in self._running]

    def _missing_baselines(self) -> list[str]:
        return [name for name in self.config.baselines if name not in self.trials.baselines]

    def _just_measured(self, record: TrialRecord) -> bool:
        """Return whether a running trial has its measurement since this record."""
        before = self.trials[record.number].measurement if record.number >= 0 else None
        return record.state is TrialState.RUNNING and record.measurement is not None and before is None

    def _reason_to_stop(self, record: TrialRecord) -> str | None:
        return reason_to_stop(record, self.trials, self.info, self.config, self._just_measured(record))

    def _store_record(self, record: TrialRecord) -> None:
        """Store a record, with rungs that an earlier try has reached and this one has not reached yet."""
        if record.scale is not None:
            self._store_scale(record)
            return
        record = replace(record, rungs=(*record.rungs, *self.trials[record.number].rungs[len(record.rungs) :]))
        if record.state is not TrialState.RUNNING:
            record = replace(record, started_s=self._began_s.get(record.number), finished_s=self.elapsed_s)
        values = coordinates(record, self.info.objectives, len(record.rungs) - 1) if record.rungs else None
        self._store.retry_while_unavailable(lambda: self._store.save(record, values))
        self._update(record)

    def _store_scale(self, record: TrialRecord) -> None:
        """Store a comparison network that has been measured, or whose measurement failed."""
        if record.state is not TrialState.RUNNING:
            record = replace(record, started_s=self._began_s.get(record.number), finished_s=self.elapsed_s)
            self._store.retry_while_unavailable(lambda: self._store.save_scale(record))
            self._running.discard(record.number)
        self.scale[record.number] = record
        self._listener(self, record)

    def _update(self, record: TrialRecord) -> None:
        self.trials[record.number] = record
        if record.state is not TrialState.RUNNING:
            self._running.discard(record.number)
        self._check_consecutive(record)
        self._listener(self, record)

    def _check_consecutive(self, record: TrialRecord) -> None:
        if record.state is TrialState.RUNNING:
            if record.measurement:  # within the limits; with many workers it may take long until a trial ends
                del self._consecutive[TrialState.INFEASIBLE]
            return
        if record.counts:
            self._consecutive.clear()
        self._consecutive[record.state] += 1
        for state, limit in ((TrialState.INFEASIBLE, _INFEASIBLE_LIMIT), (TrialState.FAILED, _FAILED_LIMIT)):
            if self._consecutive[state] >= limit:
                self.gave_up = f"{limit} {state.value} architectures in a row; the last: {record.reason}"


def _comparison_network(name: str, config: SearchConfig) -> TrialRecord:
    """Return the record of a comparison network that is still to be measured."""
    if is_of_timm(name):
        return TrialRecord(-1, name, {}, TrialState.RUNNING, scale=name)
    spec = config.spec(name)
    return TrialRecord(-1, spec.arch_id, spec.to_dict(), TrialState.RUNNING, scale=name)
