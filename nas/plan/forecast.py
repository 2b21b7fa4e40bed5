"""Forecast hours and bytes of a search on clusters, by simulating it with random candidates.

The module is pure. Times and objectives of candidates are drawn independently. How many trials are promoted depends on
how much later candidates improve on earlier ones. If the sampler learns nothing, all orders are equally likely, and
sum(ceil(i / eta) / i) of the first n trials at a rung are promoted, whatever their values. If it learns from finished
trials, more are promoted.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from statistics import fmean, median

from nas.backend.simulated import Cluster, Doing, SimulatedClock, SimulatedPhase, SimulatedSearch, simulate
from nas.backend.simulated_study import MemoryStore, NumberedSpace
from nas.backend.simulated_trial import exact_measurement, trial_phases
from nas.race.arguments import SEARCH_SHARE
from nas.study.config import SearchConfig
from nas.study.loop import Listener, StudyLoop
from nas.study.records import Expectation, Objective, StudyInfo, TrialRecord, TrialState

# Standard deviations by which both objectives of new candidates rise whenever the number of finished trials grows by
# a factor of e. Fitted to recorded searches of 200 trials (python -m experiments.benchmarks.simulated_wall --fit): with
# known-cost 106 and 90 reached the second rung and 67 and 55 the third, with evolution 119 and 76.
LEARNING = {"random": 0.0, "known-cost": 0.4, "evolution": 0.6}
DEFAULT_LEARNING = 0.6  # nsga2, tpe
SIZES = (8, 64, 1024)  # devices of the simulated clusters
MAX_SIMULATED = 1000  # trials simulated for a deadline; larger budgets are extrapolated

# Candidates have their values on the axes that the loop compares.
_OBJECTIVES = (Objective("score", "score", "", reference=0.0), Objective("throughput", "speed", "", reference=0.0))


class Basis(StrEnum):
    """The source of a number."""

    MEASURED = "measured"  # on this machine, for this plan
    DERIVED = "derived"  # computed from settings, counted operations and measured numbers
    SIMULATED = "simulated"  # by nas.backend.simulated
    ASSUMED = "assumed"  # by the user or by default, or computed from such a number
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class PlanFigure:
    """One number of the plan.

    Args:
        key: Name in JSON.
        label: Name in the table.
        value: The number; None: unknown.
        unit: "s", "bytes", "bytes/s", or "" for counts.
        basis: Source of the number.
        note: Remark in the table.
        low: Lower end of its range.
        high: Upper end of its range.
    """

    key: str
    label: str
    value: float | None
    unit: str
    basis: Basis
    note: str = ""
    low: float | None = None
    high: float | None = None


def weaker(*bases: Basis) -> Basis:
    """Return the basis of a number that is computed from others: the weakest of theirs, derived at best."""
    order = [Basis.DERIVED, Basis.SIMULATED, Basis.ASSUMED, Basis.UNKNOWN]
    return max((basis if basis in order else Basis.DERIVED for basis in bases), key=order.index)


@dataclass(frozen=True)
class TrialTimes:
    """Seconds of one architecture's measurement, and of training and evaluation at each rung."""

    measure_s: float
    rung_s: tuple[float, ...]


@dataclass(frozen=True)
class Candidate:
    """The times and objectives of an architecture. Without rungs it breaks a limit: it ends after `measure_s`.

    Args:
        measure_s: Seconds of its measurement.
        rung_s: Seconds of training and evaluation from rung to rung.
        scores: Score at each rung; higher is better.
        speed: The other objective, which the measurement reveals; higher is better.
    """

    measure_s: float
    rung_s: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    speed: float = 0.0


# Candidates until most throughputs are predicted well enough to be measured late: 60 % and more of those from there on.
FIRST_LATE = 20
Draw = Callable[[int, int], Candidate]  # (trials proposed so far, trials finished) -> the next candidate


@dataclass(frozen=True)
class Workload:
    """The distribution of a search's candidates.

    Args:
        times: Times of the probed architectures.
        infeasible: Share of candidates that break a limit before they are measured.
        learning: Speed at which the sampler learns, see `LEARNING`.
        seed: Seed of the draws.
    """

    times: Sequence[TrialTimes]
    infeasible: float = 0.0
    learning: float = 0.0
    seed: int = 0

    def draw(self, number: int, finished: int) -> Candidate:
        """Return candidate `number` of a sampler that has seen `finished` trials end."""
        rng = random.Random(f"{self.seed}/{number}")
        if rng.random() < self.infeasible:
            return Candidate(0.0)
        times = rng.choice(self.times)
        rise = self.learning * math.log1p(finished)
        score, speed = rng.gauss(rise, 1.0), rng.gauss(rise, 1.0)
        return Candidate(times.measure_s, times.rung_s, (score,) * len(times.rung_s), speed)


def simulate_candidates(
    config: SearchConfig,
    draw: Draw,
    cluster: Cluster,
    baselines: Sequence[Candidate] = (),
    until_s: float = math.inf,
    listener: Listener = lambda loop, record: None,
    deadline_s: float = math.inf,
    comparison_s: float = 0.0,
) -> SimulatedSearch:
    """Simulate a search of `config.budget` random candidates, see `nas.backend.simulated.simulate`.

    Args:
        config: Settings of the search.
        draw: Returns the next candidate.
        cluster: Cluster that runs it.
        baselines: Candidates in place of `config.baselines`, which run first.
        until_s: Seconds at which the simulation stops.
        listener: Called after every record that the loop has stored.
        deadline_s: Seconds at which the search itself ends, see `StudyLoop`.
        comparison_s: Seconds of measuring a comparison network.
    """

    def phases(loop: StudyLoop, record: TrialRecord) -> Iterator[SimulatedPhase]:
        if record.scale is not None:
            return iter([SimulatedPhase(Doing.MEASURING, comparison_s, replace(record, state=TrialState.MEASURED))])
        return candidate_phases(record, candidate(record.number), config.distill.rung_steps)

    @cache
    def candidate(number: int) -> Candidate:
        sampled = number - len(baselines)
        return draw(sampled, len(loop.trials) - len(loop.trials.running)) if sampled >= 0 else baselines[number]

    def expect(number: int) -> Expectation | None:
        late = config.measures_late and number >= len(baselines) + FIRST_LATE
        last = len(config.distill.rung_steps) - 1
        return Expectation(0.0, 0.0, 0.0, candidate(number).speed, last) if late else None

    clock = SimulatedClock()
    store = MemoryStore(study_info(config, _OBJECTIVES), lambda number: {"number": number}, expect)
    loop = StudyLoop(store, listener, space=NumberedSpace(), clock=clock, deadline_s=deadline_s)
    return simulate(loop, clock, cluster, phases, until_s)


def study_info(config: SearchConfig, objectives: tuple[Objective, ...]) -> StudyInfo:
    """Return the description of a study that is simulated and never stored."""
    return StudyInfo(
        name="plan", created="", command="", config=config.to_dict(), environment={}, objectives=objectives,
        rung_steps=config.distill.rung_steps, limits={}, teachers={}, data={}, reference=config.reference, baselines=(),
    )  # fmt: skip


def candidate_phases(record: TrialRecord, candidate: Candidate, rung_steps: Sequence[int]) -> Iterator[SimulatedPhase]:
    """Yield the phases of a candidate's trial, each with the record that a worker would report after it."""
    if not candidate.rung_s:
        infeasible = replace(record, state=TrialState.INFEASIBLE, reason="over a limit on counted costs")
        yield SimulatedPhase(Doing.MEASURING, candidate.measure_s, infeasible)
        return
    record = replace(record, params=1, macs=1)
    measurement, steps = exact_measurement(candidate.speed, candidate.speed), rung_steps[: len(candidate.rung_s)]
    yield from trial_phases(record, steps, candidate.scores, candidate.rung_s, measurement, candidate.measure_s)


@dataclass(frozen=True)
class PlanCosts:
    """The costs that the simulation starts from.

    Args:
        candidates: Times of random architectures.
        baselines: Times of the study's baselines.
        params: Mean number of the candidates' parameters.
        infeasible: Share of the space that breaks a limit.
        basis: Source of the times.
        teachers_s: Seconds of the teachers on one device; None: unknown.
        teachers_basis: Source of `teachers_s`.
        race_s: Returns the seconds of the race that ends the search for (devices, workers); None without one.
    """

    candidates: tuple[TrialTimes, ...]
    baselines: tuple[TrialTimes, ...]
    params: float
    infeasible: float
    basis: Basis
    teachers_s: float | None
    teachers_basis: Basis
    race_s: Callable[[int, int], float] | None = None


@dataclass(frozen=True)
class Forecast:
    """The forecast of the search on one cluster.

    Args:
        planned: Whether the plan's figures are those of this cluster.
        devices: Number of devices.
        simulated: The simulated search.
        teachers_s: Wall time of the teachers in seconds; None: unknown.
        fits: Largest budget that ends by the deadline; None: there is no deadline.
        extrapolated: Whether `fits` is extrapolated.
        race_s: Seconds of the race that ends the search, with its teachers; None without one.
    """

    planned: bool
    devices: int
    simulated: SimulatedSearch
    teachers_s: float | None
    fits: int | None = None
    extrapolated: bool = False
    race_s: float | None = None

    @property
    def wall_s(self) -> float:
        """Return the seconds of the search with its race, and of the teachers where they are known."""
        return self.simulated.wall_s + (self.teachers_s or 0.0) + (self.race_s or 0.0)

    @property
    def device_hours(self) -> float:
        """Return the hours of all devices, from the first teacher pass to the end of the race."""
        return self.wall_s * self.devices / 3600


@dataclass(frozen=True)
class SearchPlan:
    """The plan that the command prints.

    Args:
        device: Name of the device.
        here: Whether the planned cluster is this machine.
        figures: Numbers of the planned cluster.
        forecasts: Forecasts of all clusters, ordered by their size.
        max_hours: Hours until the deadline; None: there is none.
        notes: Assumptions, one sentence or more each.
        usd_per_hour: US dollars of a device-hour; None: there is no cost.
    """

    device: str
    here: bool
    figures: tuple[PlanFigure, ...]
    forecasts: tuple[Forecast, ...]
    max_hours: float | None
    notes: tuple[str, ...]
    usd_per_hour: float | None = None

    @property
    def planned(self) -> Forecast:
        """Return the forecast of the planned cluster."""
        return next(forecast for forecast in self.forecasts if forecast.planned)


def forecasts(
    config: SearchConfig,
    costs: Callable[[int], PlanCosts],
    planned: Cluster,
    sizes: Sequence[int],
    max_hours: float | None,
) -> tuple[Forecast, ...]:
    """Return forecasts of the planned cluster and of clusters of other sizes.

    Args:
        config: Settings of the search; a trial takes `config.distill.ranks` devices.
        costs: Returns the costs of its trials and teachers for a number of workers, which share a disk.
        planned: The planned cluster.
        sizes: Devices of the other clusters.
        max_hours: Hours until the deadline; None: there is none.
    """
    ranks = config.distill.ranks
    clusters = {size: replace(planned, devices=size // ranks) for size in sizes if size >= ranks}
    clusters[planned.devices * ranks] = planned
    return tuple(
        _forecast(clusters[size], size, clusters[size] is planned, config, costs(clusters[size].workers), max_hours)
        for size in sorted(clusters)
    )


def _forecast(
    cluster: Cluster, devices: int, planned: bool, config: SearchConfig, costs: PlanCosts, max_hours: float | None
) -> Forecast:
    teachers_s = None if costs.teachers_s is None else costs.teachers_s / devices
    race_s = None if costs.race_s is None else costs.race_s(devices, cluster.workers)
    whole = Forecast(planned, devices, simulate_search(config, costs, cluster), teachers_s, race_s=race_s)
    if max_hours is None:
        return whole
    share = 1.0 if race_s is None else SEARCH_SHARE
    left_s = max(0.0, max_hours * 3600 * share - (teachers_s or 0.0))
    run = simulate_search(replace(config, budget=MAX_SIMULATED), costs, cluster, until_s=left_s)
    if (fits := run.within(left_s)) < MAX_SIMULATED:
        return replace(whole, fits=fits)
    # Further trials would keep the workers, or the driver, as busy as these did.
    rate = MAX_SIMULATED / max(run.busy_s / cluster.workers, run.driver_s)
    return replace(whole, fits=int(MAX_SIMULATED + rate * (left_s - run.wall_s)), extrapolated=True)


def simulate_search(
    config: SearchConfig,
    costs: PlanCosts,
    cluster: Cluster,
    learning: float | None = None,
    until_s: float = math.inf,
) -> SimulatedSearch:
    """Simulate the search.

    Args:
        config: Settings of the search.
        costs: Costs of its trials.
        cluster: Cluster that runs it.
        learning: Speed at which the sampler learns; None: that of `config.sampler`.
        until_s: Seconds at which the simulation stops.
    """
    if learning is None:
        learning = LEARNING.get(config.sampler, DEFAULT_LEARNING)
    workload = Workload(costs.candidates, costs.infeasible, learning, config.seed)
    baselines = [Candidate(t.measure_s, t.rung_s, (0.0,) * len(t.rung_s)) for t in costs.baselines]
    comparison_s = fmean(t.measure_s for t in costs.candidates)
    return simulate_candidates(config, workload.draw, cluster, baselines, until_s, comparison_s=comparison_s)


def search_figures(config: SearchConfig, costs: PlanCosts, run: SimulatedSearch) -> list[PlanFigure]:
    """Return trials, hours and storage of a simulated search."""
    basis, figures = weaker(costs.basis, Basis.SIMULATED), []
    for rung, steps in enumerate(config.distill.rung_steps):
        cost = [t.measure_s + sum(t.rung_s[: rung + 1]) for t in costs.candidates]
        label = f"a trial of {steps} steps"
        figures.append(spread(f"trial_s.{rung}", label, cost, weaker(costs.basis)))
    chance = simulate_search(config, costs, run.cluster, learning=0.0)
    for rung, (count, by_chance) in enumerate(zip(run.reached, chance.reached, strict=True)):
        label = f"trials that train to {config.distill.rung_steps[rung]} steps"
        note = "low: if candidates do not improve during the search" if rung else "the budget"
        low = None if by_chance == count else by_chance
        figures.append(PlanFigure(f"reach.{rung}", label, count, "", Basis.SIMULATED, note, low=low))
    if run.infeasible:
        note = "proposed in addition to the budget, not trained: they break --max-params or --max-gmacs"
        label = "architectures over a limit"
        figures.append(PlanFigure("infeasible", label, run.infeasible, "", Basis.SIMULATED, note))
    mean_s = run.busy_s / max(1, run.reached[0])
    figures.append(
        PlanFigure(
            "mean_trial_s",
            "worker time per candidate",
            mean_s,
            "s",
            basis,
            "mean; baselines and comparison networks included",
        )
    )
    label = "measuring and training, summed over workers"
    total = PlanFigure("busy_s", label, run.busy_s, "s", basis, low=chance.busy_s)
    weights = run.complete * costs.params * 4
    note = "weights of complete trials only; heads, timing samples and pictures are not counted"
    return [*figures, total, PlanFigure("run_bytes", "run folder", weights, "bytes", basis, note)]


def spread(key: str, label: str, seconds: Sequence[float], basis: Basis, note: str = "") -> PlanFigure:
    """Return the median of several durations, with their range."""
    return PlanFigure(key, label, median(seconds), "s", basis, note, low=min(seconds), high=max(seconds))
