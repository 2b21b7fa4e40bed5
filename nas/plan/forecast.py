"""From what one trial and the teachers cost to clusters, hours and bytes: the search simulated with drawn candidates.

Pure. Times and worth of candidates are drawn independently. How many trials train on then depends on how much better
than earlier ones later candidates are: where nothing is learned all orders are equally likely, and of the first n
trials at a rung sum(ceil(i / eta) / i) train on, whatever their values. A sampler that learns from finished trials
makes more train on.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import median

from nas.backend.simulated import (
    Cluster,
    Doing,
    MemoryStore,
    NumberedSpace,
    SimulatedClock,
    SimulatedSearch,
    Stage,
    simulate,
)
from nas.study.config import SearchConfig
from nas.study.loop import StudyLoop
from nas.study.records import Measurement, Objective, RungResult, StudyInfo, TrialRecord, TrialState

# Standard deviations by which both objectives of new candidates rise for each e-fold of the trials that are over, so
# that 200 trials end as the recorded searches did: python -m experiments.benchmarks.simulated_wall --fit. Of 200 of
# known-cost's 106 and 90 reached the second rung, 67 and 55 the third; of evolution's 119 and 76.
LEARNING = {"random": 0.0, "known-cost": 0.4, "evolution": 0.6}
OTHERS_LEARN = 0.6  # nsga2, tpe
SIZES = (8, 64, 1024)  # devices
MAX_SIMULATED = 1000  # trials that are simulated for a deadline; more are extrapolated

# The points of candidates are given on the axes on which the loop compares them.
_OBJECTIVES = (Objective("score", "score", "", reference=0.0), Objective("throughput", "speed", "", reference=0.0))


class Basis(StrEnum):
    """How a number is known."""

    MEASURED = "measured"  # on this machine, a moment ago
    DERIVED = "derived"  # computed from settings, counted operations and measured numbers
    SIMULATED = "simulated"  # by nas.backend.simulated
    ASSUMED = "assumed"  # given or taken for granted, and everything computed from it
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class PlanFigure:
    """One number of the plan.

    Args:
        value: None where it is unknown.
        unit: "s", "bytes", or "" for counts.
        low: lower end of its spread.
        high: upper end of its spread.
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
    """Return the basis of a number computed from several: the least known of them, derived at best."""
    order = [Basis.DERIVED, Basis.SIMULATED, Basis.ASSUMED, Basis.UNKNOWN]
    return max((basis if basis in order else Basis.DERIVED for basis in bases), key=order.index)


@dataclass(frozen=True)
class TrialTimes:
    """Seconds of one architecture: its measurement, and each rung with its evaluation."""

    measure_s: float
    rung_s: tuple[float, ...]


@dataclass(frozen=True)
class Candidate:
    """An architecture's times and worth. Without rungs it breaks a hard limit: it ends after `measure_s`, uncounted.

    Args:
        rung_s: seconds of training and evaluation from rung to rung.
        scores: score at each rung; more is better.
        speed: the other objective, known once it is measured; more is better.
    """

    measure_s: float
    rung_s: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    speed: float = 0.0


Draw = Callable[[int, int], Candidate]  # (trials asked for before, trials that are over) -> the next one


@dataclass(frozen=True)
class Workload:
    """The candidates of a search.

    Args:
        times: of the probed architectures.
        infeasible: share of candidates that break a limit before they are measured.
        learning: how fast the sampler learns, see `LEARNING`.
    """

    times: Sequence[TrialTimes]
    infeasible: float = 0.0
    learning: float = 0.0
    seed: int = 0

    def draw(self, asked: int, over: int) -> Candidate:
        """Return candidate number `asked` of a sampler that has seen `over` trials end."""
        rng = random.Random(f"{self.seed}/{asked}")
        if rng.random() < self.infeasible:
            return Candidate(0.0)
        times = rng.choice(self.times)
        rise = self.learning * math.log1p(over)
        score, speed = rng.gauss(rise, 1.0), rng.gauss(rise, 1.0)
        return Candidate(times.measure_s, times.rung_s, (score,) * len(times.rung_s), speed)


def simulate_candidates(
    config: SearchConfig,
    draw: Draw,
    cluster: Cluster,
    baselines: Sequence[Candidate] = (),
    until_s: float = math.inf,
) -> SimulatedSearch:
    """Simulate a search of `config.budget` drawn candidates; see `nas.backend.simulated.simulate`.

    Args:
        baselines: candidates in the place of `config.baselines`, which are asked for first.
    """

    def stages(loop: StudyLoop, record: TrialRecord) -> Iterator[Stage]:
        own = record.number - len(baselines)
        over = len(loop.trials) - len(loop.trials.running)
        candidate = draw(own, over) if own >= 0 else baselines[record.number]
        return candidate_stages(record, candidate, config.distill.rung_steps)

    clock = SimulatedClock()
    store = MemoryStore(study_info(config, _OBJECTIVES), lambda number: {"number": number})
    return simulate(StudyLoop(store, space=NumberedSpace(), clock=clock), clock, cluster, stages, until_s)


def study_info(config: SearchConfig, objectives: tuple[Objective, ...]) -> StudyInfo:
    """Return the description of a study that is planned and never kept."""
    return StudyInfo(
        name="plan", created="", command="", config=config.to_dict(), environment={}, objectives=objectives,
        rung_steps=config.distill.rung_steps, limits={}, teachers={}, data={}, reference=config.reference, baselines=(),
    )  # fmt: skip


def candidate_stages(record: TrialRecord, candidate: Candidate, rung_steps: Sequence[int]) -> Iterator[Stage]:
    """Yield the stages of a candidate's trial, each with the record that a worker would send after it."""
    if not candidate.rung_s:
        over = replace(record, state=TrialState.INFEASIBLE, reason="a limit that counting can check")
        yield Stage(Doing.MEASURING, candidate.measure_s, over)
        return
    record = replace(record, measurement=_measurement(candidate.speed), params=1, macs=1)
    yield Stage(Doing.MEASURING, candidate.measure_s, record)
    for rung, (seconds, score) in enumerate(zip(candidate.rung_s, candidate.scores, strict=True)):
        result = RungResult(rung, rung_steps[rung], score, {}, {}, {}, seconds)
        last = rung + 1 == len(candidate.rung_s)
        state = TrialState.COMPLETE if last else TrialState.RUNNING
        record = replace(record, rungs=(*record.rungs, result), state=state)
        yield Stage(Doing.TRAINING, seconds, record)


def _measurement(speed: float) -> Measurement:
    return Measurement(
        device="", arm="", batch=1, resolution=1, throughput_img_s=speed, throughput_low_img_s=speed,
        throughput_high_img_s=speed, ratio=speed, ratio_low=speed, ratio_high=speed, reference="", reference_img_s=1.0,
        latency_ms=1.0, peak_memory_mib=None, samples=1, seconds=0.0, verdict="ok",
    )  # fmt: skip


@dataclass(frozen=True)
class PlanCosts:
    """Everything that is known before the simulation.

    Args:
        candidates: seconds of random architectures.
        baselines: seconds of the study's baselines.
        params: mean parameters of the candidates.
        infeasible: share of the space that breaks a limit.
        teachers_s: seconds of the teachers on one device, None where unknown.
    """

    candidates: tuple[TrialTimes, ...]
    baselines: tuple[TrialTimes, ...]
    params: float
    infeasible: float
    basis: Basis
    teachers_s: float | None
    teachers_basis: Basis


@dataclass(frozen=True)
class Forecast:
    """The search on one cluster.

    Args:
        own: whether the plan's figures are of this cluster.
        teachers_s: seconds of the teachers by the clock, None where unknown.
        fits: the largest budget that ends by the deadline.
        about: whether `fits` is extrapolated.
    """

    own: bool
    devices: int
    simulated: SimulatedSearch
    teachers_s: float | None
    fits: int | None = None
    about: bool = False

    @property
    def wall_s(self) -> float:
        """Seconds of the search and of what is known of the teachers."""
        return self.simulated.wall_s + (self.teachers_s or 0.0)

    @property
    def device_hours(self) -> float:
        """Hours of all devices, held from the first teacher pass to the last trial."""
        return self.wall_s * self.devices / 3600


@dataclass(frozen=True)
class SearchPlan:
    """What is printed.

    Args:
        here: whether the own cluster is this machine.
        forecasts: in the order of their devices.
    """

    device: str
    here: bool
    figures: tuple[PlanFigure, ...]
    forecasts: tuple[Forecast, ...]
    deadline_h: float | None
    notes: tuple[str, ...]

    @property
    def own(self) -> Forecast:
        """The forecast that the plan's figures are of."""
        return next(forecast for forecast in self.forecasts if forecast.own)


def forecasts(
    config: SearchConfig, costs: PlanCosts, own: Cluster, sizes: Sequence[int], deadline_h: float | None
) -> tuple[Forecast, ...]:
    """Return forecasts of `own` and of clusters of the given sizes; `config.distill.ranks` devices take one trial."""
    ranks = config.distill.ranks
    clusters = {size: replace(own, devices=size // ranks) for size in sizes if size >= ranks}
    clusters[own.devices * ranks] = own
    return tuple(
        _forecast(clusters[size], size, clusters[size] is own, config, costs, deadline_h) for size in sorted(clusters)
    )


def _forecast(
    cluster: Cluster, devices: int, own: bool, config: SearchConfig, costs: PlanCosts, deadline_h: float | None
) -> Forecast:
    teachers_s = None if costs.teachers_s is None else costs.teachers_s / devices
    whole = Forecast(own, devices, simulate_search(config, costs, cluster), teachers_s)
    if deadline_h is None:
        return whole
    left_s = max(0.0, deadline_h * 3600 - (teachers_s or 0.0))
    run = simulate_search(replace(config, budget=MAX_SIMULATED), costs, cluster, until_s=left_s)
    if (fits := run.within(left_s)) < MAX_SIMULATED:
        return replace(whole, fits=fits)
    # More would have kept the workers, or the driver, as busy as these did.
    rate = MAX_SIMULATED / max(run.busy_s / cluster.workers, run.driver_s)
    return replace(whole, fits=int(MAX_SIMULATED + rate * (left_s - run.wall_s)), about=True)


def simulate_search(
    config: SearchConfig,
    costs: PlanCosts,
    cluster: Cluster,
    learning: float | None = None,
    until_s: float = math.inf,
) -> SimulatedSearch:
    """Simulate the search at these costs; `learning` is the sampler's unless given."""
    if learning is None:
        learning = LEARNING.get(config.sampler, OTHERS_LEARN)
    workload = Workload(costs.candidates, costs.infeasible, learning, config.seed)
    baselines = [Candidate(t.measure_s, t.rung_s, (0.0,) * len(t.rung_s)) for t in costs.baselines]
    return simulate_candidates(config, workload.draw, cluster, baselines, until_s)


def search_figures(config: SearchConfig, costs: PlanCosts, here: SimulatedSearch) -> list[PlanFigure]:
    """Return trials, hours and storage of the search itself."""
    known, found = weaker(costs.basis, Basis.SIMULATED), []
    for rung, steps in enumerate(config.distill.rung_steps):
        cost = [t.measure_s + sum(t.rung_s[: rung + 1]) for t in costs.candidates]
        label = f"a trial that ends after {steps} steps"
        found.append(spread(f"trial_s.{rung}", label, cost, weaker(costs.basis)))
    chance = simulate_search(config, costs, here.cluster, learning=0.0)
    for rung, (count, by_chance) in enumerate(zip(here.reached, chance.reached, strict=True)):
        label = f"trials that train to {config.distill.rung_steps[rung]} steps"
        note = "low: a sampler that learns nothing" if rung else "the budget"
        low = None if by_chance == count else by_chance
        found.append(PlanFigure(f"reach.{rung}", label, count, "", Basis.SIMULATED, note, low=low))
    if here.infeasible:
        note = "in addition to the budget: they break --max-params or --max-gmacs"
        found.append(PlanFigure("infeasible", "architectures over a limit", here.infeasible, "", Basis.SIMULATED, note))

    mean_s = here.busy_s / max(1, here.reached[0])
    found.append(PlanFigure("mean_trial_s", "a trial, mean", mean_s, "s", known, "baselines shared out"))
    total = PlanFigure("busy_s", "measuring and training, all workers", here.busy_s, "s", known, low=chance.busy_s)
    weights = here.complete * costs.params * 4
    note = "weights of complete trials; heads, samples and pictures not counted"
    return [*found, total, PlanFigure("run_bytes", "run folder", weights, "bytes", known, note)]


def spread(key: str, label: str, seconds: Sequence[float], basis: Basis, note: str = "") -> PlanFigure:
    """Return the median of several seconds with its spread."""
    return PlanFigure(key, label, median(seconds), "s", basis, note, low=min(seconds), high=max(seconds))
