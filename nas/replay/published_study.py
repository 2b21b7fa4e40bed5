"""One search replayed: loop, store, rungs and samplers are those of a real search, results and seconds the table's."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from nas.backend.simulated import Cluster, Doing, SimulatedClock, Stage, simulate
from nas.replay.arguments import ReplaySettings
from nas.replay.nasbench201 import EDGES, KNOWN_COST, CellSpace, PublishedTable, knowledge, load_table
from nas.replay.tables import Array, shares, whole_volume
from nas.samplers import make_sampler
from nas.samplers.known_cost import KnownCostSampler, TrialValues
from nas.storage.store import Store
from nas.study.architectures import vary
from nas.study.config import DistillConfig, SearchConfig
from nas.study.loop import StudyLoop
from nas.study.records import Measurement, Objective, RungResult, StudyInfo, TrialRecord, TrialState

# Of an emulated rung: by how much the accuracy falls short, and the deviation of what else it differs by, in units of
# the deviation of accuracies over the reference, both in proportion to the training that is missing.
_SHORTFALL, _SCATTER = 2.0, 0.6


@dataclass(frozen=True)
class ReplayJob:
    """One search of a replay: a sampler with a seed, and the folder of its study."""

    settings: ReplaySettings
    sampler: str
    seed: int
    run_dir: Path
    command: str = ""


def play(job: ReplayJob) -> tuple[Array, float]:
    """Return the share of the true hypervolume by evaluations, and full trainings' worth of training.

    Runs in a worker process.
    """
    settings = job.settings
    table = load_table(settings.dataset, settings.latency)
    sampler = sampler_of(job.sampler, table, job.seed, settings.knowledge, settings.proxies_csv, settings.rungs)
    ended = replay(
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
    accuracy = [t.rungs[-1].score if t.state is TrialState.COMPLETE else -np.inf for t in ended]
    latency = [t.measurement.latency_ms for t in ended if t.measurement]
    whole = whole_volume(table.accuracy, table.latency_ms, table.reference)
    last = max(r.steps for t in ended for r in t.rungs)
    return shares(accuracy, latency, table.reference, whole), sum(t.rungs[-1].steps / last for t in ended)


def objectives(table: PublishedTable, rungs: int = 1) -> tuple[Objective, Objective]:
    """Return the objectives of a replayed study; the throughput is relative to the slowest cell's."""
    accuracy, _ = table.reference
    label = f"{table.dataset} validation accuracy, published{'; lower rungs EMULATED' if rungs > 1 else ''}"
    return (
        Objective("score", label, "%", reference=accuracy),
        Objective("throughput", f"throughput over the slowest cell's, {table.device}", "x", reference=1.0, log=True),
    )


def config_of(budget: int, seed: int, sampler: str, rungs: int) -> SearchConfig:
    """Return the config of a replayed study; steps are relative: the published training is the last rung."""
    steps = tuple(3**rung for rung in range(rungs))
    known = {"space": "nasbench201", "data": "published", "teachers": "none", "baselines": ()}
    return SearchConfig(budget=budget, seed=seed, sampler=sampler, distill=DistillConfig(rung_steps=steps), **known)  # type: ignore[arg-type]


def sampler_of(
    name: str, table: PublishedTable, seed: int, sources: Sequence[str], proxies_csv: str | None, rungs: int = 1
) -> BaseSampler:
    """Return a sampler by name; known-cost is told the latency of every cell and what `sources` say of it."""
    space = CellSpace()
    if name != KNOWN_COST:
        return make_sampler(config_of(1, seed, name, rungs), space, objectives(table))
    place = {cell.operations: i for i, cell in enumerate(table.cells)}
    rows = knowledge(table, [s for s in sources if s != "parameters"], proxies_csv)

    def places(candidates: Sequence[dict[str, Any]]) -> NDArray[np.int64]:
        return np.array([place[tuple(c[edge] for edge in EDGES)] for c in candidates], dtype=np.int64)

    def candidates(parents: Sequence[dict[str, Any]], count: int, rng: random.Random) -> list[dict[str, Any]]:
        return [space.encode(cell) for cell in vary(space, [space.decode(p) for p in parents], count, rng)]

    def read_trial(trial: FrozenTrial) -> TrialValues | None:
        record = trial.user_attrs.get("record")
        if not record or not record["rungs"]:
            return None
        return TrialValues(tuple(rung["score"] for rung in record["rungs"]), -record["measurement"]["latency_ms"])

    accuracy, slowest = table.reference
    return KnownCostSampler(
        lambda asked, trials: -table.latency_ms[places(asked)],
        reference=(accuracy, -slowest),
        distributions={name: CategoricalDistribution(values) for name, values in space.choices().items()},
        candidates=candidates,
        features=(lambda asked: rows[places(asked)]) if rows.shape[1] else None,
        parameters="parameters" in sources,
        read_trial=read_trial,
        rungs=rungs,
        seed=seed,
    )


def replay(
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
    """Replay a whole study in `run_dir`; return its trials that count, in the order of their simulated ends.

    Each of `workers` takes the published training time, or its part of a rung.
    """
    config = config_of(budget, seed, name, rungs)
    store = Store.create(run_dir, _info(table, config, run_dir.name, created, command), sampler)
    clock = SimulatedClock()
    loop = StudyLoop(store, lambda loop, record: listener(loop.evaluated), space=CellSpace(), clock=clock)
    position = {cell.arch_id: i for i, cell in enumerate(table.cells)}

    def stages(loop: StudyLoop, record: TrialRecord) -> Iterator[Stage]:
        return _stages(record, table, position[record.arch_id], config)

    simulate(loop, clock, Cluster(devices=workers), stages)
    ended = sorted((t for t in loop.trials.values() if t.counts), key=lambda t: (t.finished_s or 0.0, t.number))
    loop.close({"train": float(sum(r.seconds for t in ended for r in t.rungs))}, workers)
    return ended


def _stages(record: TrialRecord, table: PublishedTable, i: int, config: SearchConfig) -> Iterator[Stage]:
    """Yield the published training, rung by rung; what is measured is known and takes no time."""
    steps = config.distill.rung_steps
    record = replace(record, params=round(1e6 * table.millions[i]), measurement=published_measurement(table, i))
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
