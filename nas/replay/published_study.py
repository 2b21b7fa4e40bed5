"""Replay a search with the loop, store, rungs and samplers of a real one; results and seconds are published ones."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from nas.backend.simulated import Cluster, SimulatedClock, SimulatedPhase, simulate
from nas.backend.simulated_trial import exact_measurement, trial_phases
from nas.replay.arguments import SIZES, ReplaySettings
from nas.replay.nasbench201 import load_nasbench201
from nas.replay.published_table import Array, PublishedTable
from nas.samplers import make_sampler
from nas.samplers.known_cost import KnownCostSampler, TrialValues
from nas.storage.store import Store
from nas.study.config import KNOWN_COST, DistillConfig, SearchConfig
from nas.study.loop import StudyLoop
from nas.study.pareto import hypervolume
from nas.study.records import Measurement, Objective, StudyInfo, TrialRecord, TrialState
from nas.study.space_protocol import vary

_REFERENCE = "the slowest cell"


@dataclass(frozen=True)
class ReplayJob:
    """One search of a replay: its sampler, its seed and the folder of its study."""

    settings: ReplaySettings
    sampler: str
    seed: int
    run_dir: Path
    command: str = ""


class ReplayResult(NamedTuple):
    """Result of one search.

    Attributes:
        shares: Share of the true hypervolume by number of evaluations, by mean accuracies.
        front_shares: The same of the front that the search itself sees, by the accuracies that it has drawn.
        trained: Training spent, in full trainings.
    """

    shares: Array
    front_shares: Array
    trained: float


def run_job(job: ReplayJob) -> ReplayResult:
    """Replay a search, in a worker process."""
    settings = job.settings
    table = load_nasbench201(settings.dataset, settings.latency)
    sampler = replay_sampler(job.sampler, table, job.seed, settings.sources)
    config = replay_config(table, job.sampler, job.seed, min(settings.budget, len(table.architectures)))
    trials = replay_study(table, config, sampler, job.run_dir, settings.workers, job.command)
    return ReplayResult(*shares_of(table, trials), len(trials))


def shares_of(table: PublishedTable, trials: Sequence[TrialRecord]) -> tuple[Array, Array]:
    """Return `ReplayResult.shares` and `front_shares` of the trials that count, in the order in which they end."""
    drawn = [t.final_score if t.state is TrialState.COMPLETE else -math.inf for t in trials]
    rows = [table.positions[t.arch_id] for t in trials]
    truth, costs = np.where(np.isfinite(drawn), table.accuracy[rows], -np.inf), table.costs[rows]
    total = total_hypervolume(table.accuracy, table.costs, table.reference)
    return (
        hypervolume_shares(truth, costs, table.reference, total),
        hypervolume_shares(truth, costs, table.reference, total, drawn),
    )


def hypervolume_shares(
    accuracy: ArrayLike,
    costs: ArrayLike,
    reference: tuple[float, float],
    total: float,
    drawn: ArrayLike | None = None,
) -> Array:
    """Return the share of the hypervolume after 1, 2, ... n evaluations, (n,).

    Args:
        accuracy: Accuracy of each evaluated architecture, which is maximized; -inf: it was not trained to the end.
        costs: Cost of each evaluated architecture, which is minimized.
        reference: Accuracy and cost from which the hypervolume is measured.
        total: Hypervolume of all architectures.
        drawn: Accuracy that decides whether an architecture is on the front; None: `accuracy`.
    """
    floor, highest = reference
    truth = np.asarray(accuracy, dtype=float)
    seen = truth if drawn is None else np.asarray(drawn, dtype=float)
    volume, volumes = 0.0, []
    front: list[tuple[float, float, float]] = []
    for a, cost, true in zip(seen, np.asarray(costs, dtype=float), truth, strict=True):
        beyond = a > floor and cost < highest
        if beyond and not any(b >= a and c <= cost for b, c, _ in front):
            front = [(b, c, t) for b, c, t in front if not (a >= b and cost <= c)] + [(a, cost, true)]
            volume = hypervolume([(t, -c) for _, c, t in front], (floor, -highest))
        volumes.append(volume / total)
    return np.array(volumes)


def total_hypervolume(accuracy: ArrayLike, costs: ArrayLike, reference: tuple[float, float]) -> float:
    """Return the hypervolume of all architectures."""
    points = np.column_stack([np.asarray(accuracy), -np.asarray(costs)])
    return hypervolume(points, (reference[0], -reference[1]))


def quantiles(curves: Sequence[Array]) -> dict[str, list[float]]:
    """Return the median, 5th and 95th percentile over seeds by number of evaluations, as plain JSON data."""
    length = min(map(len, curves))
    rows = np.array([curve[:length] for curve in curves])
    low, middle, high = np.percentile(rows, [5, 50, 95], axis=0)
    return {
        "evaluations": list(range(1, length + 1)),
        "median": [round(float(v), 5) for v in middle],
        "p5": [round(float(v), 5) for v in low],
        "p95": [round(float(v), 5) for v in high],
    }


def objectives(table: PublishedTable) -> tuple[Objective, Objective]:
    """Return the objectives of a replayed study: accuracy, and throughput relative to the slowest."""
    speed = f"throughput over that of {_REFERENCE}, {table.cost_label}"
    return (
        Objective("score", f"{table.dataset} accuracy, published", "%", reference=table.reference[0]),
        Objective("throughput", speed, "x", reference=1.0, log=True),
    )


def replay_config(table: PublishedTable, sampler: str, seed: int, budget: int) -> SearchConfig:
    """Return the config of a replayed study, whose only rung is the published training."""
    names = tuple(objective.name for objective in objectives(table))
    published = {"space": table.space.name, "data": "published", "teachers": "none", "baselines": (), "scale": ()}
    published["objectives"] = names
    return SearchConfig(budget=budget, seed=seed, sampler=sampler, distill=DistillConfig(rung_steps=(1,)), **published)  # type: ignore[arg-type]


def replay_sampler(name: str, table: PublishedTable, seed: int, sources: Sequence[str]) -> BaseSampler:
    """Return a sampler by name.

    Args:
        name: Name of the sampler; known-cost knows the cost of every architecture.
        table: Published results.
        seed: Seed of the sampler.
        sources: Sources of the features of architectures that known-cost sees.

    Raises:
        ConfigError: The table does not have a source.
    """
    if name == KNOWN_COST:
        known = [source for source in sources if source not in ("parameters", SIZES)]
        return _known_cost(table, seed, known, "parameters" in sources, SIZES in sources)
    return make_sampler(replay_config(table, name, seed, 1), table.space, objectives(table))


def _known_cost(
    table: PublishedTable, seed: int, sources: Sequence[str], parameters: bool, with_sizes: bool
) -> KnownCostSampler:
    space, features = table.space, table.features(sources)
    sizes = table.sizes() if with_sizes else np.empty((len(features), 0))
    names = tuple(space.choices())
    positions: dict[tuple[Any, ...], int] = {}

    def rows(candidates: Sequence[dict[str, Any]]) -> NDArray[np.int64]:
        keys = [tuple(params[name] for name in names) for params in candidates]
        for key, params in zip(keys, candidates, strict=True):
            if key not in positions:
                positions[key] = table.positions[space.decode(params).arch_id]
        return np.array([positions[key] for key in keys], dtype=np.int64)

    def candidates(parents: Sequence[dict[str, Any]], count: int, rng: random.Random) -> list[dict[str, Any]]:
        return [space.encode(spec) for spec in vary(space, [space.decode(p) for p in parents], count, rng)]

    def read_trial(trial: FrozenTrial) -> TrialValues | None:
        record = trial.user_attrs.get("record")
        if not record or not record["rungs"]:
            return None
        scores = tuple(rung["score"] for rung in record["rungs"])
        return TrialValues(scores, -float(table.costs[table.positions[record["arch_id"]]]))

    accuracy, highest = table.reference
    return KnownCostSampler(
        lambda params, trials: -table.costs[rows(params)],
        reference=(accuracy, -highest),
        distributions={name: CategoricalDistribution(values) for name, values in space.choices().items()},
        candidates=candidates,
        features=(lambda params: features[rows(params)]) if features.shape[1] else None,
        parameters=parameters,
        sizes=lambda params: sizes[rows(params)],
        read_trial=read_trial,
        seed=seed,
    )


def replay_study(
    table: PublishedTable,
    config: SearchConfig,
    sampler: BaseSampler,
    run_dir: Path,
    workers: int = 1,
    command: str = "",
) -> list[TrialRecord]:
    """Replay a study and return the trials that count, in the order in which they end by the simulated clock.

    Args:
        table: Published results.
        config: The study's settings, of `replay_config`.
        sampler: The sampler.
        run_dir: Folder of the study.
        workers: Trials at a time; each takes the published training time.
        command: Command line of the study.
    """
    info = replay_info(table, config, run_dir.name, "published results", objectives(table), _REFERENCE, command)
    return play(table, sampler, info, partial(_phases, table=table), Cluster(workers), run_dir)


def play(
    table: PublishedTable,
    sampler: BaseSampler,
    info: StudyInfo,
    phases: Callable[[TrialRecord], Iterator[SimulatedPhase]],
    cluster: Cluster,
    run_dir: Path,
) -> list[TrialRecord]:
    """Store a replayed study, and return the trials that count in the order in which they end by the simulated clock.

    Args:
        table: The table.
        sampler: The sampler.
        info: The study's description.
        phases: Yields the phases of a new trial.
        cluster: Devices of the clock, and trials at a time on each.
        run_dir: Folder of the study.
    """
    clock = SimulatedClock()
    loop = StudyLoop(Store.create(run_dir, info, sampler), space=table.space, clock=clock)
    simulate(loop, clock, cluster, lambda loop, record: phases(record))
    trials = sorted((t for t in loop.trials.values() if t.counts), key=lambda t: (t.finished_s or 0.0, t.number))
    loop.close({"train": float(sum(r.seconds for t in trials for r in t.rungs))}, cluster.workers)
    return trials


def _phases(record: TrialRecord, table: PublishedTable) -> Iterator[SimulatedPhase]:
    """Yield the published training. The measurement is published and takes no time."""
    i = table.positions[record.arch_id]
    record = replace(record, params=round(table.params[i]), measurement=published_measurement(table, i))
    yield from trial_phases(record, (1,), [float(table.accuracy[i])], [float(table.train_s[i])])


def published_measurement(table: PublishedTable, i: int) -> Measurement:
    """Return the published latency of architecture `i` as a measurement."""
    latency = float(table.costs[i])
    ratio, speed = float(table.costs.max()) / latency, 1e3 / latency
    return replace(
        exact_measurement(ratio, speed, speed / ratio),
        device=table.cost_label,
        arm="published",
        resolution=32,
        reference=_REFERENCE,
        latency_ms=latency,
        notes=("published latency, one batch counted as one image; nothing was measured here",),
    )


def replay_info(
    table: PublishedTable,
    config: SearchConfig,
    name: str,
    source: str,
    compared: tuple[Objective, ...],
    reference: str,
    command: str,
) -> StudyInfo:
    """Return the description of a replayed study.

    Args:
        table: The table.
        config: The study's settings.
        name: Name of the study's folder.
        source: Words for what is replayed.
        compared: The study's objectives.
        reference: Name of the reference of its throughputs.
        command: Its command line.
    """
    return StudyInfo(
        name=f"{name}: a replay of {source}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        config=config.to_dict(),
        environment={"device": table.cost_label, "replayed": f"{source}, {table.bench}; nothing was trained"},
        objectives=compared,
        rung_steps=config.distill.rung_steps,
        limits={},
        teachers={},
        data={"name": table.dataset, "fingerprint": "published"},
        reference=reference,
        baselines=(),
    )
