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
RACE_TRAININGS = (3, 5, 8)  # of a race, its target's among them: fewest, assumed, most
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
class Candidate:
    """The times and objectives of an architecture. Without rungs it breaks a limit: it ends after `measure_s`.

    Args:
        measure_s: Seconds of its measurement.
        rung_s: Seconds of training and evaluation from rung to rung.
        scores: Score at each rung, higher is better; empty where only times are known.
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
        times: The probed architectures, of which only the times are known.
        infeasible: Share of candidates that break a limit before they are measured.
        learning: Speed at which the sampler learns, see `LEARNING`.
        seed: Seed of the draws.
    """

    times: Sequence[Candidate]
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
        return replace(times, scores=(score,) * len(times.rung_s), speed=speed)


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
class RaceCosts:
    """The costs of the race at the end of a search: teachers on more images, and a few long trainings.

    Args:
        teachers_s: Seconds of the teachers on one device; None: unknown.
        teachers_basis: Source of `teachers_s`.
        training_s: Seconds of a training of each probed architecture.
    """

    teachers_s: float | None
    teachers_basis: Basis
    training_s: tuple[float, ...]

    def wall_s(self, devices: int, workers: int, trainings: int = RACE_TRAININGS[1]) -> float:
        """Return the seconds of teachers that share all devices, and of trainings side by side."""
        return (self.teachers_s or 0.0) / devices + math.ceil(trainings / workers) * median(self.training_s)


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
        race: Costs of the race that ends the search; None without one.
    """

    candidates: tuple[Candidate, ...]
    baselines: tuple[Candidate, ...]
    params: float
    infeasible: float
    basis: Basis
    teachers_s: float | None
    teachers_basis: Basis
    race: RaceCosts | None = None


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
    race_s = None if costs.race is None else costs.race.wall_s(devices, cluster.workers)
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
    until_s: float = math.inf,
) -> SimulatedSearch:
    """Simulate the search.

    Args:
        config: Settings of the search.
        costs: Costs of its trials.
        cluster: Cluster that runs it.
        until_s: Seconds at which the simulation stops.
    """
    learning = LEARNING.get(config.sampler, DEFAULT_LEARNING)
    workload = Workload(costs.candidates, costs.infeasible, learning, config.seed)
    baselines = [replace(times, scores=(0.0,) * len(times.rung_s)) for times in costs.baselines]
    comparison_s = fmean(t.measure_s for t in costs.candidates)
    return simulate_candidates(config, workload.draw, cluster, baselines, until_s, comparison_s=comparison_s)


def search_figures(config: SearchConfig, costs: PlanCosts, run: SimulatedSearch) -> list[PlanFigure]:
    """Return the seconds of trials, and what a simulated search takes of all workers and of the disk."""
    basis, figures = weaker(costs.basis, Basis.SIMULATED), []
    for rung, steps in enumerate(config.distill.rung_steps):
        cost = [times.measure_s + sum(times.rung_s[: rung + 1]) for times in costs.candidates]
        figures.append(spread(f"trial_s.{rung}", f"a trial of {steps} steps", cost, weaker(costs.basis)))
    if run.infeasible:
        note = "proposed in addition to the budget, not trained: they break --max-params or --max-gmacs"
        over = "architectures over a limit"
        figures.append(PlanFigure("infeasible", over, run.infeasible, "", Basis.SIMULATED, note))
    total = "measuring and training, summed over workers"
    weights = run.complete * costs.params * 4
    note = "weights of complete trials only; heads, timing samples and pictures are not counted"
    return [
        *figures,
        PlanFigure("busy_s", total, run.busy_s, "s", basis),
        PlanFigure("run_bytes", "run folder", weights, "bytes", basis, note),
    ]


def race_figures(costs: RaceCosts, basis: Basis, planned: Forecast) -> list[PlanFigure]:
    """Return the seconds of a race and of its teachers.

    Args:
        costs: Its costs.
        basis: Source of the seconds of its trainings.
        planned: Forecast of the planned cluster.
    """
    workers, (fewest, assumed, most) = planned.simulated.cluster.workers, RACE_TRAININGS
    low, usual, high = (costs.wall_s(planned.devices, workers, number) for number in RACE_TRAININGS)
    whole, teachers_s = weaker(basis, costs.teachers_basis, Basis.ASSUMED), costs.teachers_s
    note = f"{fewest} to {most} trainings, {assumed} assumed, side by side; --no-race leaves it out"
    return [
        PlanFigure("race_teachers_s", "race: running the teachers", teachers_s, "s", costs.teachers_basis),
        PlanFigure("race_s", "race", usual, "s", whole, note, low, high),
    ]


def spread(key: str, label: str, seconds: Sequence[float], basis: Basis, note: str = "") -> PlanFigure:
    """Return the median of several durations, with their range."""
    return PlanFigure(key, label, median(seconds), "s", basis, note, low=min(seconds), high=max(seconds))
