"""Simulate a search: the real `StudyLoop` decides on a simulated clock, a plan or a published table gives the costs.

This is a discrete-event simulation of one driver and its workers. The driver serves asks and results one after the
other. A free worker asks the loop for a trial and steps through its phases. A measurement has its device to itself:
trainings there pause. After every phase the loop decides whether the trial continues. The simulation simplifies twice:
a measurement does not wait for the training steps under way on its device, and workers that share a device need exactly
the given seconds.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from itertools import count

from nas.study.loop import StudyLoop
from nas.study.records import TrialRecord, TrialState


class Doing(StrEnum):
    """Purposes of a worker's seconds."""

    MEASURING = "measuring"
    TRAINING = "training"
    STARTING = "starting up"
    DRIVER = "waiting for the driver"
    DEVICE = "waiting for a measurement"
    TAIL = "no trial left to start"


@dataclass(frozen=True)
class SimulatedPhase:
    """Measuring or training for `seconds`, after which the worker sends `record`."""

    doing: Doing
    seconds: float
    record: TrialRecord


@dataclass(frozen=True)
class Cluster:
    """The devices of a simulated search, and the overheads of its driver and workers.

    Args:
        devices: Number of devices.
        workers_per_device: Trials at a time on each device.
        start_s: Seconds until a worker can begin its first trial.
        ask_s: Seconds of the driver per new trial.
        tell_s: Seconds of the driver per result.
    """

    devices: int
    workers_per_device: int = 1
    start_s: float = 0.0
    ask_s: float = 0.0
    tell_s: float = 0.0

    @property
    def workers(self) -> int:
        """Return the number of trials at a time."""
        return self.devices * self.workers_per_device


@dataclass(frozen=True)
class Span:
    """The seconds that one worker spends on a phase of a trial, including the pauses of a training."""

    worker: int
    begin_s: float
    end_s: float
    doing: Doing
    trial: int


@dataclass(frozen=True)
class SimulatedSearch:
    """The course of a simulated search.

    Args:
        cluster: Its devices.
        wall_s: Seconds from its start to its end.
        spent: Seconds of all workers by purpose; they add up to workers x `wall_s`.
        reached: Number of sampled trials with a result, for each rung.
        complete: Number of sampled trials that trained to the last rung.
        infeasible: Number of sampled trials that broke a limit.
        trial_ends: When each trial ended (infinity: not yet) and whether it counts, in the order of asking.
        driver_s: Seconds of the driver's own work.
        spans: The workers' seconds in detail.
        ending: Reason why the loop ended the search before its budget was spent; None where it was.
    """

    cluster: Cluster
    wall_s: float
    spent: dict[Doing, float]
    reached: tuple[int, ...]
    complete: int
    infeasible: int
    trial_ends: tuple[tuple[float, bool], ...] = field(repr=False)
    driver_s: float
    spans: tuple[Span, ...] = field(repr=False)
    ending: str | None = None

    @property
    def busy_s(self) -> float:
        """Return the seconds in which workers measured or trained."""
        return self.spent[Doing.MEASURING] + self.spent[Doing.TRAINING]

    @property
    def utilization(self) -> float:
        """Return the share of the workers' time in which they measured or trained."""
        whole = self.wall_s * self.cluster.workers
        return self.busy_s / whole if whole else 0.0

    def within(self, seconds: float) -> int:
        """Return the largest budget whose trials have all ended after `seconds`."""
        fits = 0
        for end, counts in self.trial_ends:
            if end > seconds:
                break
            fits += counts
        return fits


class SimulatedClock:
    """The clock of a `StudyLoop` and of the simulation that drives it."""

    now_s = 0.0

    def __call__(self) -> float:
        """Return the simulated time in seconds."""
        return self.now_s


TrialPhases = Callable[[StudyLoop, TrialRecord], Iterator[SimulatedPhase]]  # of a trial that a worker begins


def simulate(
    loop: StudyLoop, clock: SimulatedClock, cluster: Cluster, phases: TrialPhases, until_s: float = math.inf
) -> SimulatedSearch:
    """Simulate a study to its end, or until `until_s`; it is deterministic if the loop and `phases` are.

    Args:
        loop: The loop of the study.
        clock: The loop's clock.
        cluster: The simulated devices.
        phases: Yields the phases of a trial.
        until_s: Second at which the simulation stops; then only `SimulatedSearch.within` is meaningful.

    Raises:
        ValueError: The cluster has no worker.
    """
    if cluster.workers < 1:
        raise ValueError(f"a cluster of {cluster.devices} x {cluster.workers_per_device} workers can't run a trial")
    return _Simulation(loop, clock, cluster, phases).run(until_s)


@dataclass(eq=False)
class _Device:
    free_s: float = 0.0  # when its last measurement ends
    training: list[_Worker] = field(default_factory=list)


@dataclass(eq=False)
class _Worker:
    number: int
    device: _Device
    started: bool = False
    free_since_s: float = 0.0
    trial: int = -1
    phases: Iterator[SimulatedPhase] = field(default_factory=lambda: iter(()))
    ends_s: float = 0.0  # end of the training under way, with its pauses so far


class _Simulation:
    """A queue of events, ordered by their time and then by their creation."""

    def __init__(self, loop: StudyLoop, clock: SimulatedClock, cluster: Cluster, phases: TrialPhases) -> None:
        self._loop, self._clock, self._cluster, self._phases = loop, clock, cluster, phases
        devices = [_Device() for _ in range(cluster.devices)]
        workers = [_Worker(i, devices[i // cluster.workers_per_device]) for i in range(cluster.workers)]
        self._free = workers[::-1]  # the last one asks first
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._driver_free_s = self._driver_s = 0.0
        self._spent = dict.fromkeys(Doing, 0.0)
        self._spans: list[Span] = []

    def run(self, until_s: float) -> SimulatedSearch:
        self._start_trials()
        while self._events and self._events[0][0] <= until_s:
            self._clock.now_s, _, handle = heapq.heappop(self._events)
            handle()
        for worker in self._free:
            self._spent[Doing.TAIL] += self._clock.now_s - worker.free_since_s
        return self._result()

    def _result(self) -> SimulatedSearch:
        trials = [self._loop.trials[number] for number in sorted(self._loop.trials)]
        sampled = [trial for trial in trials if not trial.baseline]
        running = TrialState.RUNNING
        return SimulatedSearch(
            cluster=self._cluster,
            wall_s=self._clock.now_s,
            spent=self._spent,
            reached=tuple(sum(len(t.rungs) > rung for t in sampled) for rung in range(len(self._loop.info.rung_steps))),
            complete=self._loop.counts[TrialState.COMPLETE],
            infeasible=self._loop.counts[TrialState.INFEASIBLE],
            trial_ends=tuple(
                (math.inf, True) if t.state is running else (t.finished_s or 0.0, t.counts) for t in trials
            ),
            driver_s=self._driver_s,
            spans=tuple(self._spans),
            ending=self._loop.ending,
        )

    def _at(self, time_s: float, handle: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._order), handle))

    def _spend(self, doing: Doing, worker: _Worker, begin_s: float, end_s: float) -> None:
        if end_s > begin_s:
            self._spent[doing] += end_s - begin_s
            self._spans.append(Span(worker.number, begin_s, end_s, doing, worker.trial))

    def _serve(self, worker: _Worker, seconds: float, handle: Callable[[], None]) -> None:
        """Queue a worker at the driver, which serves one at a time."""
        now_s = self._clock.now_s
        self._driver_free_s = max(now_s, self._driver_free_s) + seconds
        self._driver_s += seconds
        self._spend(Doing.DRIVER, worker, now_s, self._driver_free_s)
        self._at(self._driver_free_s, handle)

    def _start_trials(self) -> None:
        """Start trials on free workers while the loop has any."""
        while self._free and (record := self._loop.next_trial()) is not None:
            worker = self._free.pop()
            self._spent[Doing.TAIL] += self._clock.now_s - worker.free_since_s
            worker.trial = record.number
            self._serve(worker, self._cluster.ask_s, partial(self._begin, worker, record))

    def _begin(self, worker: _Worker, record: TrialRecord) -> None:
        worker.phases = self._phases(self._loop, record)
        phase = next(worker.phases)
        begin_s = self._clock.now_s
        if not worker.started:
            worker.started = True
            begin_s += self._cluster.start_s
            self._spend(Doing.STARTING, worker, self._clock.now_s, begin_s)
        self._at(begin_s, partial(self._enter, worker, phase))

    def _enter(self, worker: _Worker, phase: SimulatedPhase) -> None:
        if phase.doing is Doing.MEASURING:
            self._measure(worker, phase)
        else:
            self._train(worker, phase)

    def _measure(self, worker: _Worker, phase: SimulatedPhase) -> None:
        """Measure alone on the device while its trainings pause."""
        device, begin_s = worker.device, self._clock.now_s
        if phase.seconds:
            begin_s = max(begin_s, device.free_s)
            device.free_s = begin_s + phase.seconds
            for other in device.training:
                other.ends_s += phase.seconds
        self._spend(Doing.DEVICE, worker, self._clock.now_s, begin_s)
        self._spend(Doing.MEASURING, worker, begin_s, begin_s + phase.seconds)
        self._at(begin_s + phase.seconds, partial(self._tell, worker, phase))

    def _train(self, worker: _Worker, phase: SimulatedPhase) -> None:
        begin_s = max(self._clock.now_s, worker.device.free_s)
        self._spend(Doing.DEVICE, worker, self._clock.now_s, begin_s)
        worker.ends_s = begin_s + phase.seconds
        worker.device.training.append(worker)
        self._at(worker.ends_s, partial(self._trained, worker, phase, begin_s))

    def _trained(self, worker: _Worker, phase: SimulatedPhase, began_s: float) -> None:
        now_s = self._clock.now_s
        if worker.ends_s > now_s:  # a measurement paused it
            self._at(worker.ends_s, partial(self._trained, worker, phase, began_s))
            return
        worker.device.training.remove(worker)
        self._spend(Doing.TRAINING, worker, began_s, now_s)
        paused_s = max(0.0, now_s - began_s - phase.seconds)
        self._spent[Doing.TRAINING] -= paused_s
        self._spent[Doing.DEVICE] += paused_s
        self._tell(worker, phase)

    def _tell(self, worker: _Worker, phase: SimulatedPhase) -> None:
        self._serve(worker, self._cluster.tell_s, partial(self._decide, worker, phase))

    def _decide(self, worker: _Worker, phase: SimulatedPhase) -> None:
        if self._loop.report(phase.record):
            self._enter(worker, next(worker.phases))
            return
        worker.free_since_s = self._clock.now_s
        self._free.append(worker)
        self._start_trials()
