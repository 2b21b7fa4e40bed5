"""Replay a search with the loop, store, rungs and samplers of a real one; results and seconds are published ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from nas.backend.simulated import Cluster, Doing, SimulatedClock, Stage, simulate
from nas.replay.arguments import ReplaySettings
from nas.replay.nasbench201 import EDGES, KNOWN_COST, Array, CellSpace, PublishedTable, cell_features, load_table
from nas.samplers import make_sampler
from nas.samplers.known_cost import KnownCostSampler, TrialValues
from nas.storage.store import Store
from nas.study.architectures import vary
from nas.study.config import DistillConfig, SearchConfig
from nas.study.loop import StudyLoop
from nas.study.pareto import hypervolume
from nas.study.records import Measurement, Objective, RungResult, StudyInfo, TrialRecord, TrialState

# Mean and standard deviation of the accuracy that an emulated rung lacks, in proportion to the missing training. Their
# unit is the standard deviation of the accuracies over the reference.
_SHORTFALL, _SCATTER = 2.0, 0.6


@dataclass(frozen=True)
class ReplayJob:
    """One search of a replay: its sampler, its seed and the folder of its study."""

    settings: ReplaySettings
    sampler: str
    seed: int
    run_dir: Path
    command: str = ""


def run_job(job: ReplayJob) -> tuple[Array, float]:
    """Replay a search, in a worker process.

    Returns:
        The share of the true hypervolume by number of evaluations, and the training spent, in full trainings.
    """
    settings = job.settings
    table = load_table(settings.dataset, settings.latency)
    sampler = replay_sampler(job.sampler, table, job.seed, settings.knowledge, settings.proxies_csv, settings.rungs)
    trials = replay_study(
        table,
        job.sampler,
        sampler,
        job.run_dir,
        budget=min(settings.budget, len(table.cells)),
        seed=job.seed,
        rungs=settings.rungs,
        workers=settings.workers,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=job.command,
    )
    accuracy = [t.rungs[-1].score if t.state is TrialState.COMPLETE else -np.inf for t in trials]
    latency = [t.measurement.latency_ms for t in trials if t.measurement]
    total = total_hypervolume(table.accuracy, table.latency_ms, table.reference)
    last = max(r.steps for t in trials for r in t.rungs)
    return hypervolume_shares(accuracy, latency, table.reference, total), sum(t.rungs[-1].steps / last for t in trials)


def hypervolume_shares(
    accuracy: Sequence[float], latency_ms: Sequence[float], reference: tuple[float, float], total: float
) -> Array:
    """Return the share of the hypervolume after 1, 2, ... n evaluations, (n,).

    Args:
        accuracy: Accuracy of each evaluated cell, which is maximized; -inf: it was not trained to the last rung.
        latency_ms: Latency of each evaluated cell, which is minimized.
        reference: Accuracy and latency from which the hypervolume is measured.
        total: Hypervolume of all cells.
    """
    floor, slowest = reference
    volume, volumes = 0.0, []
    front: list[tuple[float, float]] = []
    for point in zip(accuracy, latency_ms, strict=True):
        beyond = point[0] > floor and point[1] < slowest
        if beyond and not any(a >= point[0] and ms <= point[1] for a, ms in front):
            front = [(a, ms) for a, ms in front if not (point[0] >= a and point[1] <= ms)] + [point]
            volume = hypervolume([(a, -ms) for a, ms in front], (floor, -slowest))
        volumes.append(volume / total)
    return np.array(volumes)


def total_hypervolume(accuracy: ArrayLike, latency_ms: ArrayLike, reference: tuple[float, float]) -> float:
    """Return the hypervolume of all cells."""
    points = np.column_stack([np.asarray(accuracy), -np.asarray(latency_ms)])
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


def objectives(table: PublishedTable, rungs: int = 1) -> tuple[Objective, Objective]:
    """Return the objectives of a replayed study: accuracy, and throughput relative to the slowest cell."""
    accuracy, _ = table.reference
    label = f"{table.dataset} validation accuracy, published{'; lower rungs EMULATED' if rungs > 1 else ''}"
    return (
        Objective("score", label, "%", reference=accuracy),
        Objective(
            "throughput", f"throughput over that of the slowest cell, {table.device}", "x", reference=1.0, log=True
        ),
    )


def replay_config(budget: int, seed: int, sampler: str, rungs: int) -> SearchConfig:
    """Return the config of a replayed study. Its steps are relative; the last rung is the published training."""
    steps = tuple(3**rung for rung in range(rungs))
    published = {"space": "nasbench201", "data": "published", "teachers": "none", "baselines": (), "scale": ()}
    return SearchConfig(budget=budget, seed=seed, sampler=sampler, distill=DistillConfig(rung_steps=steps), **published)  # type: ignore[arg-type]


def replay_sampler(
    name: str, table: PublishedTable, seed: int, sources: Sequence[str], proxies_csv: str | None, rungs: int = 1
) -> BaseSampler:
    """Return a sampler by name.

    Args:
        name: Name of the sampler. known-cost knows the latency of every cell.
        table: Published results.
        seed: Seed of the sampler.
        sources: Sources of the features of cells that known-cost uses.
        proxies_csv: File of training-free proxies; None: there is none.
        rungs: Rungs of successive halving.
    """
    space = CellSpace()
    if name != KNOWN_COST:
        return make_sampler(replay_config(1, seed, name, rungs), space, objectives(table))
    positions = {cell.operations: i for i, cell in enumerate(table.cells)}
    features = cell_features(table, [s for s in sources if s != "parameters"], proxies_csv)

    def rows(candidates: Sequence[dict[str, Any]]) -> NDArray[np.int64]:
        return np.array([positions[tuple(c[edge] for edge in EDGES)] for c in candidates], dtype=np.int64)

    def candidates(parents: Sequence[dict[str, Any]], count: int, rng: random.Random) -> list[dict[str, Any]]:
        return [space.encode(cell) for cell in vary(space, [space.decode(p) for p in parents], count, rng)]

    def read_trial(trial: FrozenTrial) -> TrialValues | None:
        record = trial.user_attrs.get("record")
        if not record or not record["rungs"]:
            return None
        return TrialValues(tuple(rung["score"] for rung in record["rungs"]), -record["measurement"]["latency_ms"])

    accuracy, slowest = table.reference
    return KnownCostSampler(
        lambda params, trials: -table.latency_ms[rows(params)],
        reference=(accuracy, -slowest),
        distributions={name: CategoricalDistribution(values) for name, values in space.choices().items()},
        candidates=candidates,
        features=(lambda params: features[rows(params)]) if features.shape[1] else None,
        parameters="parameters" in sources,
        read_trial=read_trial,
        rungs=rungs,
        seed=seed,
    )


def replay_study(
    table: PublishedTable,
    name: str,
    sampler: BaseSampler,
    run_dir: Path,
    *,
    budget: int,
    seed: int,
    rungs: int = 1,
    workers: int = 1,
    created: str = "",
    command: str = "",
    listener: Callable[[int], None] = lambda evaluated: None,
) -> list[TrialRecord]:
    """Replay a study and return the trials that count, in the order in which they end by the simulated clock.

    Args:
        table: Published results.
        name: Name of the sampler.
        sampler: The sampler.
        run_dir: Folder of the study.
        budget: Architectures to evaluate.
        seed: Seed of the study.
        rungs: Rungs of successive halving.
        workers: Trials at a time; each takes the published training time, or a rung's share of it.
        created: Time at which the study was created.
        command: Command line of the study.
        listener: Receives the number of evaluated architectures.
    """
    config = replay_config(budget, seed, name, rungs)
    store = Store.create(run_dir, _info(table, config, run_dir.name, created, command), sampler)
    clock = SimulatedClock()
    loop = StudyLoop(store, lambda loop, record: listener(loop.evaluated), space=CellSpace(), clock=clock)
    position = {cell.arch_id: i for i, cell in enumerate(table.cells)}

    def stages(loop: StudyLoop, record: TrialRecord) -> Iterator[Stage]:
        return _stages(record, table, position[record.arch_id], config)

    simulate(loop, clock, Cluster(devices=workers), stages)
    trials = sorted((t for t in loop.trials.values() if t.counts), key=lambda t: (t.finished_s or 0.0, t.number))
    loop.close({"train": float(sum(r.seconds for t in trials for r in t.rungs))}, workers)
    return trials


def _stages(record: TrialRecord, table: PublishedTable, i: int, config: SearchConfig) -> Iterator[Stage]:
    """Yield the published training, rung by rung. The measurement is published and takes no time."""
    steps = config.distill.rung_steps
    record = replace(record, params=round(1e6 * table.params_m[i]), measurement=published_measurement(table, i))
    spread = float(np.std(table.accuracy[table.accuracy > table.reference[0]]))
    for rung, until in enumerate(steps):
        missing = 1 - until / steps[-1]
        drawn = random.Random(f"{config.seed}/{record.arch_id}/{rung}").gauss(0.0, 1.0)
        accuracy = float(table.accuracy[i]) - missing * spread * (_SHORTFALL + _SCATTER * drawn)
        seconds = float(table.train_s[i]) * (until - (steps[rung - 1] if rung else 0)) / steps[-1]
        result = RungResult(rung, until, accuracy, {}, {}, {}, seconds)
        last = rung == len(steps) - 1
        state = TrialState.COMPLETE if last else TrialState.RUNNING
        record = replace(record, rungs=(*record.rungs, result), state=state)
        yield Stage(Doing.TRAINING, seconds, record)


def published_measurement(table: PublishedTable, i: int) -> Measurement:
    """Return the published latency of cell `i` as a measurement."""
    latency = float(table.latency_ms[i])
    ratio, speed = float(table.latency_ms.max()) / latency, 1e3 / latency
    return Measurement(
        device=table.device,
        arm="published",
        batch=1,
        resolution=32,
        throughput_img_s=speed,
        throughput_low_img_s=speed,
        throughput_high_img_s=speed,
        ratio=ratio,
        ratio_low=ratio,
        ratio_high=ratio,
        reference="the slowest cell",
        reference_img_s=speed / ratio,
        latency_ms=latency,
        peak_memory_mib=None,
        samples=1,
        seconds=0.0,
        verdict="ok",
        notes=("published latency, one batch counted as one image; nothing was measured here",),
    )


def _info(table: PublishedTable, config: SearchConfig, name: str, created: str, command: str) -> StudyInfo:
    return StudyInfo(
        name=f"{name}: a replay of published results",
        created=created,
        command=command,
        config=config.to_dict(),
        environment={"device": table.device, "replayed": "published results of NAS-Bench-201; nothing was trained"},
        objectives=objectives(table, len(config.distill.rung_steps)),
        rung_steps=config.distill.rung_steps,
        limits={},
        teachers={},
        data={"name": table.dataset, "fingerprint": "published"},
        reference="the slowest cell",
        baselines=(),
    )
