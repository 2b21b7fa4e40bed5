"""Puts the plan together: from what one trial costs and what the teachers cost to clusters, hours and bytes. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from nas.config import SearchConfig
from nas.planning.figures import Basis, Figure, weaker
from nas.planning.simulate import Candidate, Cluster, Simulated, simulate
from nas.planning.workload import LEARNING, OTHERS_LEARN, TrialTimes, Workload

SIZES = (8, 64, 1024)  # devices
MOST = 1000  # trials that are simulated for a deadline; more are extrapolated


@dataclass(frozen=True)
class Costs:
    """All that is known before the simulation. `candidates` and `baselines` are seconds of trials; `params` the mean
    of the candidates' parameters; `infeasible` the share of the space that breaks a limit; teachers' seconds are on one
    device, None where unknown."""

    candidates: tuple[TrialTimes, ...]
    baselines: tuple[TrialTimes, ...]
    params: float
    infeasible: float
    basis: Basis
    teachers_s: float | None
    teachers_basis: Basis


@dataclass(frozen=True)
class Outlook:
    """The search on one cluster; the plan's figures are of the `own` one. `teachers_s` is by the clock, None where it
    is unknown; `fits` is the largest budget that ends by the deadline, extrapolated where `about`."""

    own: bool
    devices: int
    simulated: Simulated
    teachers_s: float | None
    fits: int | None = None
    about: bool = False

    @property
    def wall_s(self) -> float:
        """Search and what is known of the teachers."""
        return self.simulated.wall_s + (self.teachers_s or 0.0)

    @property
    def device_hours(self) -> float:
        return self.wall_s * self.devices / 3600


@dataclass(frozen=True)
class Plan:
    """What is printed. `outlooks` rise with their devices; `here`: the own one is this machine."""

    device: str
    here: bool
    figures: tuple[Figure, ...]
    outlooks: tuple[Outlook, ...]
    deadline_h: float | None
    notes: tuple[str, ...]


def outlooks(
    config: SearchConfig, costs: Costs, own: Cluster, sizes: Sequence[int], deadline_h: float | None
) -> tuple[Outlook, ...]:
    """Of `own` and of clusters of the given sizes, each once; `config.distill.ranks` devices to a trial."""
    ranks = config.distill.ranks
    clusters = {size: replace(own, devices=size // ranks) for size in sizes if size >= ranks}
    clusters[own.devices * ranks] = own
    return tuple(
        _outlook(clusters[size], size, clusters[size] is own, config, costs, deadline_h) for size in sorted(clusters)
    )


def _outlook(
    cluster: Cluster, devices: int, own: bool, config: SearchConfig, costs: Costs, deadline_h: float | None
) -> Outlook:
    teachers_s = None if costs.teachers_s is None else costs.teachers_s / devices
    whole = Outlook(own, devices, searched(config, costs, cluster), teachers_s)
    if deadline_h is None:
        return whole
    left_s = max(0.0, deadline_h * 3600 - (teachers_s or 0.0))
    run = searched(replace(config, budget=MOST), costs, cluster, until_s=left_s)
    if (fits := run.within(left_s)) < MOST:
        return replace(whole, fits=fits)
    # More would have kept the workers, or the driver, as busy as these did.
    rate = MOST / max(run.busy_s / cluster.workers, run.driver_s)
    return replace(whole, fits=int(MOST + rate * (left_s - run.wall_s)), about=True)


def searched(
    config: SearchConfig,
    costs: Costs,
    cluster: Cluster,
    learning: float | None = None,
    until_s: float = math.inf,
) -> Simulated:
    """The simulated search; `learning` is the sampler's unless given."""
    if learning is None:
        learning = LEARNING.get(config.sampler, OTHERS_LEARN)
    workload = Workload(costs.candidates, costs.infeasible, learning, config.seed)
    baselines = [Candidate(t.measure_s, t.rung_s, ()) for t in costs.baselines]
    return simulate(workload.draw, config.budget, config.eta, cluster, baselines, until_s)


def search_figures(config: SearchConfig, costs: Costs, here: Simulated) -> list[Figure]:
    """Trials, hours and storage of the search itself."""
    known, found = weaker(costs.basis, Basis.SIMULATED), []
    for rung, steps in enumerate(config.distill.rung_steps):
        cost = [t.measure_s + sum(t.rung_s[: rung + 1]) for t in costs.candidates]
        label = f"a trial that ends after {steps} steps"
        found.append(_spread(f"trial_s.{rung}", label, cost, "s", weaker(costs.basis)))
    chance = searched(config, costs, here.cluster, learning=0.0)
    for rung, (count, by_chance) in enumerate(zip(here.reached, chance.reached, strict=True)):
        label = f"trials that train to {config.distill.rung_steps[rung]} steps"
        note = "low: a sampler that learns nothing" if rung else "the budget"
        low = None if by_chance == count else by_chance
        found.append(Figure(f"reach.{rung}", label, count, "", Basis.SIMULATED, note, low=low))
    if here.infeasible:
        note = "beside the budget: they break --max-params or --max-gmacs"
        found.append(Figure("infeasible", "architectures over a limit", here.infeasible, "", Basis.SIMULATED, note))

    count = here.reached[0] if here.reached else 1
    found.append(Figure("mean_trial_s", "a trial, mean", here.busy_s / count, "s", known, "baselines shared out"))
    total = Figure("busy_s", "measuring and training, all workers", here.busy_s, "s", known, low=chance.busy_s)
    weights = here.complete * costs.params * 4
    note = "weights of complete trials; heads, samples and pictures not counted"
    return [*found, total, Figure("run_bytes", "run folder", weights, "bytes", known, note)]


def probed_figures(parts: Sequence[tuple[str, str, Sequence[float]]], basis: Basis, note: str) -> list[Figure]:
    """Medians with their spread over the architectures: (key, label, seconds)."""
    return [replace(_spread(key, label, values, "s", basis), note=note) for key, label, values in parts]


def _spread(key: str, label: str, values: Sequence[float], unit: str, basis: Basis) -> Figure:
    return Figure(key, label, median(values), unit, basis, low=min(values), high=max(values))
