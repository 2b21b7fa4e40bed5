"""A search on a clock that is told: the real `StudyLoop` decides, a plan or a published table says what trials cost.

A discrete-event simulation of one driver and its workers. The driver serves asks and results one after the other. A
free worker asks the loop for a trial and goes through its stages. A measurement has its device to itself: trainings
there pause. After every stage the loop decides whether the trial goes on. Left out: a measurement waits for the few
steps that its neighbors are in, and workers of one device are as fast beside each other as the given seconds say.
"""

from __future__ import annotations

import heapq
import math
import random
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from itertools import count
from typing import Any

from nas.study.loop import Result, StudyLoop
from nas.study.records import StudyInfo, TrialRecord, TrialState


class Doing(StrEnum):
    """What a worker spends its seconds on."""

    MEASURING = "measuring"
    TRAINING = "training"
    STARTING = "starting up"
    DRIVER = "waiting for the driver"
    DEVICE = "waiting for a measurement"
    TAIL = "nothing left to start"


@dataclass(frozen=True)
class Stage:
    """`seconds` of measuring or training, after which the worker sends `record`."""

    doing: Doing
    seconds: float
    record: TrialRecord


@dataclass(frozen=True)
class Cluster:
    """Devices and what it costs to keep them busy.

    Args:
        start_s: seconds until a worker can begin its first trial.
        ask_s: seconds of the driver for a new trial.
        tell_s: seconds of the driver for a result.
    """

    devices: int
    workers_per_device: int = 1
    start_s: float = 0.0
    ask_s: float = 0.0
    tell_s: float = 0.0

    @property
    def workers(self) -> int:
        """Trials at a time."""
        return self.devices * self.workers_per_device


@dataclass(frozen=True)
class Span:
    """One worker's seconds on the trial of a number; the pauses of a training are part of it."""

    worker: int
    begin_s: float
    end_s: float
    doing: Doing
    trial: int


@dataclass(frozen=True)
class SimulatedSearch:
    """The course of a simulated search.

    Args:
        spent: seconds of all workers; they add up to workers x `wall_s`.
        reached: sampled trials with a result at each rung.
        complete: sampled trials that trained to the last rung.
        infeasible: sampled trials that broke a limit.
        over: of each trial, in the order of asking, when it ended (infinite: not yet) and whether it counts.
        driver_s: seconds of the driver's own work.
        ending: why the loop ended the search before its budget was spent.
    """

    cluster: Cluster
    wall_s: float
    spent: dict[Doing, float]
    reached: tuple[int, ...]
    complete: int
    infeasible: int
    over: tuple[tuple[float, bool], ...] = field(repr=False)
    driver_s: float
    spans: tuple[Span, ...] = field(repr=False)
    ending: str | None = None

    @property
    def busy_s(self) -> float:
        """Seconds of measuring and training, all workers'."""
        return self.spent[Doing.MEASURING] + self.spent[Doing.TRAINING]

    @property
    def utilisation(self) -> float:
        """Share of the workers' time in which they measured or trained."""
        whole = self.wall_s * self.cluster.workers
        return self.busy_s / whole if whole else 0.0

    def within(self, seconds: float) -> int:
        """Return the largest budget all of whose trials would be over by then."""
        fits = 0
        for end, counts in self.over:
            if end > seconds:
                break
            fits += counts
        return fits


class SimulatedClock:
    """The clock of a `StudyLoop` and of the simulation that drives it."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


Stages = Callable[[StudyLoop, TrialRecord], Iterator[Stage]]  # of a trial that a worker has just been given


def simulate(
    loop: StudyLoop, clock: SimulatedClock, cluster: Cluster, stages: Stages, until_s: float = math.inf
) -> SimulatedSearch:
    """Run a study to its end, or break it off at `until_s`: then only `within` says something.

    Deterministic if the loop and `stages` are.

    Args:
        clock: the loop's own.

    Raises:
        ValueError: the cluster has no worker.
    """
    if cluster.workers < 1:
        raise ValueError(f"a cluster of {cluster.devices} x {cluster.workers_per_device} workers can't run a trial")
    return _Simulation(loop, clock, cluster, stages).run(until_s)


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
    stages: Iterator[Stage] = field(default_factory=lambda: iter(()))
    ends_s: float = 0.0  # of the training under way, its pauses so far included


class _Simulation:
    """Events in the order of their time, then of their making."""

    def __init__(self, loop: StudyLoop, clock: SimulatedClock, cluster: Cluster, stages: Stages) -> None:
        self._loop, self._clock, self._cluster, self._stages = loop, clock, cluster, stages
        devices = [_Device() for _ in range(cluster.devices)]
        workers = [_Worker(i, devices[i // cluster.workers_per_device]) for i in range(cluster.workers)]
        self._free = workers[::-1]  # the last one asks first
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._driver_free_s = self._driver_s = 0.0
        self._spent = dict.fromkeys(Doing, 0.0)
        self._spans: list[Span] = []

    def run(self, until_s: float) -> SimulatedSearch:
        self._hand_out()
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
            over=tuple((math.inf, True) if t.state is running else (t.finished_s or 0.0, t.counts) for t in trials),
            driver_s=self._driver_s,
            spans=tuple(self._spans),
            ending=self._loop.gave_up or self._loop.exhausted,
        )

    def _at(self, time_s: float, handle: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._order), handle))

    def _spend(self, doing: Doing, worker: _Worker, begin_s: float, end_s: float) -> None:
        if end_s > begin_s:
            self._spent[doing] += end_s - begin_s
            self._spans.append(Span(worker.number, begin_s, end_s, doing, worker.trial))

    def _serve(self, worker: _Worker, seconds: float, handle: Callable[[], None]) -> None:
        """Queue a worker at the driver, which serves one after the other."""
        now_s = self._clock.now_s
        self._driver_free_s = max(now_s, self._driver_free_s) + seconds
        self._driver_s += seconds
        self._spend(Doing.DRIVER, worker, now_s, self._driver_free_s)
        self._at(self._driver_free_s, handle)

    def _hand_out(self) -> None:
        """Give trials to free workers as long as the loop has any."""
        while self._free and (record := self._loop.next_trial()) is not None:
            worker = self._free.pop()
            self._spent[Doing.TAIL] += self._clock.now_s - worker.free_since_s
            worker.trial = record.number
            self._serve(worker, self._cluster.ask_s, partial(self._begin, worker, record))

    def _begin(self, worker: _Worker, record: TrialRecord) -> None:
        worker.stages = self._stages(self._loop, record)
        stage = next(worker.stages)
        begin_s = self._clock.now_s
        if not worker.started:
            worker.started = True
            begin_s += self._cluster.start_s
            self._spend(Doing.STARTING, worker, self._clock.now_s, begin_s)
        self._at(begin_s, partial(self._enter, worker, stage))

    def _enter(self, worker: _Worker, stage: Stage) -> None:
        if stage.doing is Doing.MEASURING:
            self._measure(worker, stage)
        else:
            self._train(worker, stage)

    def _measure(self, worker: _Worker, stage: Stage) -> None:
        """Measure alone on the device; trainings there pause."""
        device, begin_s = worker.device, self._clock.now_s
        if stage.seconds:
            begin_s = max(begin_s, device.free_s)
            device.free_s = begin_s + stage.seconds
            for other in device.training:
                other.ends_s += stage.seconds
        self._spend(Doing.DEVICE, worker, self._clock.now_s, begin_s)
        self._spend(Doing.MEASURING, worker, begin_s, begin_s + stage.seconds)
        self._at(begin_s + stage.seconds, partial(self._tell, worker, stage))

    def _train(self, worker: _Worker, stage: Stage) -> None:
        begin_s = max(self._clock.now_s, worker.device.free_s)
        self._spend(Doing.DEVICE, worker, self._clock.now_s, begin_s)
        worker.ends_s = begin_s + stage.seconds
        worker.device.training.append(worker)
        self._at(worker.ends_s, partial(self._trained, worker, stage, begin_s))

    def _trained(self, worker: _Worker, stage: Stage, began_s: float) -> None:
        now_s = self._clock.now_s
        if worker.ends_s > now_s:  # it was paused meanwhile
            self._at(worker.ends_s, partial(self._trained, worker, stage, began_s))
            return
        worker.device.training.remove(worker)
        self._spend(Doing.TRAINING, worker, began_s, now_s)
        paused_s = max(0.0, now_s - began_s - stage.seconds)
        self._spent[Doing.TRAINING] -= paused_s
        self._spent[Doing.DEVICE] += paused_s
        self._tell(worker, stage)

    def _tell(self, worker: _Worker, stage: Stage) -> None:
        self._serve(worker, self._cluster.tell_s, partial(self._decide, worker, stage))

    def _decide(self, worker: _Worker, stage: Stage) -> None:
        if self._loop.report(stage.record):
            self._enter(worker, next(worker.stages))
            return
        worker.free_since_s = self._clock.now_s
        self._free.append(worker)
        self._hand_out()


class MemoryStore:
    """The store of a study that one driver simulates: its trials are kept by the loop alone.

    Args:
        info: the study's description.
        propose: returns the parameters of the trial of a number, as a sampler does.
    """

    driver = "simulation"

    def __init__(self, info: StudyInfo, propose: Callable[[int], dict[str, Any]]) -> None:
        self.notify: Callable[[str], None] = lambda line: None
        self._info, self._propose = info, propose
        self._numbers = count()

    @property
    def info(self) -> StudyInfo:
        """Return what the study is about."""
        return self._info

    def update_info(self, change: Callable[[StudyInfo], StudyInfo]) -> StudyInfo:
        """Keep what `change` makes of the study's description, and return it."""
        self._info = change(self._info)
        return self._info

    def retry_while_unavailable(self, work: Callable[[], Result]) -> Result:
        """Return `work()`: memory is never away."""
        return work()

    def register_driver(self) -> None:
        """Do nothing: there is no other driver."""

    def unregister_driver(self) -> None:
        """Do nothing: there is no other driver."""

    def may_take_over(self, driver: str | None) -> bool:
        """Return True: every trial is this driver's."""
        return True

    def exclusive(self) -> AbstractContextManager[None]:
        """Return a context that does nothing."""
        return nullcontext()

    def ask(
        self, choices: Mapping[str, Sequence[Any]], fixed: Mapping[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Return the number of a new trial and its parameters."""
        number = next(self._numbers)
        return number, self._propose(number) if fixed is None else dict(fixed)

    def save(self, record: TrialRecord, values: Sequence[float] | None = None) -> bool:
        """Return True: the loop has the trial."""
        return True

    def claim(self, number: int) -> bool:
        """Return True: every trial is this driver's."""
        return True

    def changes(self, running: Collection[int] = ()) -> list[tuple[TrialRecord, str | None]]:
        """Return nothing: the loop knows what this driver did."""
        return []


@dataclass(frozen=True)
class NumberedArchitecture:
    """An architecture of which nothing is known but its number."""

    number: int

    @property
    def arch_id(self) -> str:
        """The number as text."""
        return str(self.number)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {"number": self.number}


@dataclass(frozen=True)
class NumberedSpace:
    """As many architectures as asked for, for studies whose `MemoryStore` proposes {"number": N}."""

    size: int = sys.maxsize
    name: str = "numbered"

    def choices(self) -> dict[str, tuple[Any, ...]]:
        """Return no choices: the store proposes."""
        return {}

    def count(self) -> int:
        """Return the number of architectures."""
        return self.size

    def decode(self, params: Mapping[str, Any]) -> NumberedArchitecture:
        """Return the architecture of {"number": N}."""
        return NumberedArchitecture(params["number"])

    def encode(self, spec: NumberedArchitecture) -> dict[str, Any]:
        """Return {"number": N}."""
        return spec.to_dict()

    def parse(self, plain: Mapping[str, Any]) -> NumberedArchitecture:
        """Return the architecture of its plain data."""
        return self.decode(plain)

    def contains(self, spec: Any) -> bool:
        """Return whether `spec` is a numbered architecture."""
        return isinstance(spec, NumberedArchitecture) and spec.number < self.size

    def sample(self, rng: random.Random) -> NumberedArchitecture:
        """Return any architecture, all equally likely."""
        return NumberedArchitecture(rng.randrange(self.size))

    def mutate(self, spec: NumberedArchitecture, rng: random.Random) -> NumberedArchitecture:
        """Return any architecture: numbers have no neighbors."""
        return self.sample(rng)

    def crossover(self, a: NumberedArchitecture, b: NumberedArchitecture, rng: random.Random) -> NumberedArchitecture:
        """Return either parent."""
        return rng.choice((a, b))
