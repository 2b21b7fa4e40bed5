"""A discrete-event simulation of a search on a cluster: the same decisions, with times that are given. Pure, no clock.

As in nas.runner and nas.study: one driver serves asks and results one after the other; a free worker asks while
evaluated and running trials are fewer than the budget; a trial is measured first, alone on its device, while those who
train there pause; after each rung `nas.rungs.goes_on` decides. Left out: a measurement waits for the few steps that
its neighbours are in, and workers of one device are as fast beside each other as the given times say.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from itertools import count

from nas.pareto import Point
from nas.rungs import goes_on


class Doing(StrEnum):
    """What a worker's seconds go to."""

    MEASURING = "measuring"
    TRAINING = "training"
    STARTING = "starting up"
    DRIVER = "waiting for the driver"
    DEVICE = "waiting for a measurement"
    TAIL = "nothing left to start"


@dataclass(frozen=True)
class Candidate:
    """An architecture's times and worth. Without rungs it breaks a hard limit: it ends after `measure_s`, uncounted.

    `rung_s` are seconds of training and evaluation from rung to rung; `points` what `goes_on` sees at each.
    """

    measure_s: float
    rung_s: tuple[float, ...]
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Cluster:
    """Devices and what it costs to keep them busy. Seconds: of a worker's start, and of the driver for one ask, with
    all that a new trial costs there, and for one result."""

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
    """One worker from `begin_s` to `end_s` on `trial`, counted in the order of asking; pauses are part of training."""

    worker: int
    begin_s: float
    end_s: float
    doing: Doing
    trial: int


@dataclass(frozen=True)
class Simulated:
    """How it went. `reached[i]`: counted trials with a result at rung i; `spent` adds up to workers x `wall_s`;
    `over`: by trial, when it ended and whether it counts; `driver_s`: of the driver's own work."""

    cluster: Cluster
    wall_s: float
    spent: dict[Doing, float]
    reached: tuple[int, ...]
    complete: int
    infeasible: int
    over: tuple[tuple[float, bool], ...] = field(repr=False)
    driver_s: float
    spans: tuple[Span, ...] = field(repr=False)

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
        """The largest budget all of whose trials would be over by then."""
        fits = 0
        for end, counts in self.over:
            if end > seconds:
                break
            fits += counts
        return fits


Draw = Callable[[int, int], Candidate]  # (trials asked for before, trials that are over) -> the next one


def simulate(
    draw: Draw,
    budget: int,
    eta: int,
    cluster: Cluster,
    baselines: Sequence[Candidate] = (),
    until_s: float = math.inf,
) -> Simulated:
    """Runs a search of `budget` counted trials to its end.

    `baselines` come first, train to the last rung whatever the others do, and never count. With `until_s` the run is
    broken off there: then only `within` says something. Deterministic if `draw` is. ValueError where no worker is.
    """
    if cluster.workers < 1:
        raise ValueError(f"a cluster of {cluster.devices} x {cluster.workers_per_device} workers can't run a trial")
    return _Run(draw, budget, eta, cluster, baselines).run(until_s)


@dataclass
class _Trial:
    number: int  # in the order of asking
    candidate: Candidate
    baseline: bool
    rung: int = -1  # the last one with a result

    @property
    def counts(self) -> bool:
        return bool(self.candidate.rung_s) and not self.baseline


class _Run:
    """Events in the order of their time, then of their making. Every handler gets the time and the worker."""

    def __init__(self, draw: Draw, budget: int, eta: int, cluster: Cluster, baselines: Sequence[Candidate]) -> None:
        self._draw, self._budget, self._eta = draw, budget, eta
        self._cluster, self._baselines = cluster, baselines
        self._events: list[tuple[float, int, Callable[[float, int], None], int]] = []
        self._order = count()
        self._driver_free = self._driver_s = 0.0
        self._device_free = [0.0] * cluster.devices  # when its last measurement ends
        self._trial: dict[int, _Trial] = {}  # by worker, as all that follow
        self._training: dict[int, tuple[float, float]] = {}  # began, ends
        self._started: set[int] = set()
        self._idle_since: dict[int, float] = {}
        self._points: list[list[Point]] = []  # by rung
        self._over: dict[int, tuple[float, bool]] = {}  # trial -> when, and whether it counts
        self._asked = self._under_way = self._evaluated = self._complete = 0
        self._spent = dict.fromkeys(Doing, 0.0)
        self._spans: list[Span] = []

    def run(self, until_s: float) -> Simulated:
        now = 0.0
        for worker in range(self._cluster.workers):
            self._at(0.0, self._wants, worker)
        while self._events and self._events[0][0] <= until_s:
            now, _, handle, worker = heapq.heappop(self._events)
            handle(now, worker)
        self._spent[Doing.TAIL] = sum(now - since for since in self._idle_since.values())
        over = [self._over.get(trial, (math.inf, True)) for trial in range(self._asked)]
        return Simulated(
            cluster=self._cluster,
            wall_s=now,
            spent=self._spent,
            reached=tuple(map(len, self._points)),
            complete=self._complete,
            infeasible=len(self._over) - self._evaluated - len(self._baselines),
            over=tuple(over),
            driver_s=self._driver_s,
            spans=tuple(self._spans),
        )

    def _at(self, time: float, handle: Callable[[float, int], None], worker: int) -> None:
        heapq.heappush(self._events, (time, next(self._order), handle, worker))

    def _spend(self, doing: Doing, worker: int, begin: float, end: float, trial: int) -> None:
        if end > begin:
            self._spent[doing] += end - begin
            self._spans.append(Span(worker, begin, end, doing, trial))

    def _served(self, now: float, worker: int, trial: int, seconds: float, then: Callable[[float, int], None]) -> None:
        """The driver takes one thing after the other."""
        self._driver_free = max(now, self._driver_free) + seconds
        self._driver_s += seconds
        self._spend(Doing.DRIVER, worker, now, self._driver_free, trial)
        self._at(self._driver_free, then, worker)

    def _wants(self, now: float, worker: int) -> None:
        baseline = self._asked < len(self._baselines)
        if not baseline and self._evaluated + self._under_way >= self._budget:
            self._idle_since[worker] = now
            return
        self._under_way += not baseline
        self._asked += 1
        self._served(now, worker, self._asked - 1, self._cluster.ask_s, partial(self._asks, self._asked - 1))

    def _asks(self, number: int, now: float, worker: int) -> None:
        own = number - len(self._baselines)
        candidate = self._draw(own, len(self._over)) if own >= 0 else self._baselines[number]
        self._trial[worker] = _Trial(number, candidate, baseline=own < 0)
        begin = now
        if worker not in self._started:
            self._started.add(worker)
            begin += self._cluster.start_s
            self._spend(Doing.STARTING, worker, now, begin, number)
        self._at(begin, self._measures, worker)

    def _measures(self, now: float, worker: int) -> None:
        """Alone on the device; who trains there pauses."""
        trial, device = self._trial[worker], worker // self._cluster.workers_per_device
        seconds = trial.candidate.measure_s
        begin = now
        if seconds:
            begin = max(now, self._device_free[device])
            self._device_free[device] = begin + seconds
            for other, (began, ends) in self._training.items():
                if other // self._cluster.workers_per_device == device:
                    self._training[other] = (began, ends + seconds)
        self._spend(Doing.DEVICE, worker, now, begin, trial.number)
        self._spend(Doing.MEASURING, worker, begin, begin + seconds, trial.number)
        self._at(begin + seconds, self._tells, worker)

    def _trains(self, now: float, worker: int) -> None:
        trial = self._trial[worker]
        begin = max(now, self._device_free[worker // self._cluster.workers_per_device])
        self._spend(Doing.DEVICE, worker, now, begin, trial.number)
        ends = begin + trial.candidate.rung_s[trial.rung + 1]
        self._training[worker] = (begin, ends)
        self._at(ends, self._trained, worker)

    def _trained(self, now: float, worker: int) -> None:
        began, ends = self._training[worker]
        if ends > now:  # it was paused meanwhile
            self._at(ends, self._trained, worker)
            return
        del self._training[worker]
        trial = self._trial[worker]
        trial.rung += 1
        self._spend(Doing.TRAINING, worker, began, now, trial.number)
        paused = max(0.0, now - began - trial.candidate.rung_s[trial.rung])
        self._spent[Doing.TRAINING] -= paused
        self._spent[Doing.DEVICE] += paused
        self._tells(now, worker)

    def _tells(self, now: float, worker: int) -> None:
        self._served(now, worker, self._trial[worker].number, self._cluster.tell_s, self._decided)

    def _decided(self, now: float, worker: int) -> None:
        trial = self._trial[worker]
        if self._goes_on(trial):
            self._trains(now, worker)
            return
        del self._trial[worker]
        self._over[trial.number] = (now, trial.counts)
        self._under_way -= not trial.baseline
        self._evaluated += trial.counts
        self._complete += trial.counts and trial.rung + 1 == len(trial.candidate.rung_s)
        self._wants(now, worker)

    def _goes_on(self, trial: _Trial) -> bool:
        candidate, rung = trial.candidate, trial.rung
        more = rung + 1 < len(candidate.rung_s)
        if rung < 0 or trial.baseline:
            return more
        if rung == len(self._points):
            self._points.append([])
        others = self._points[rung]
        best = more and goes_on(candidate.points[rung], others, self._eta)
        others.append(candidate.points[rung])
        return best
