"""Replay searches on a table of hybrid backbones, with the rungs, samplers and latency model of a real search.

The table (`nas.replay.hybrid_rows`) has trainings of some hundred architectures of one search space through all rungs,
with their timings. A replayed search samples these architectures alone: what a sampler proposes becomes the member of
the table that it differs least from.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nas.backend.simulated import Cluster, SimulatedPhase
from nas.backend.simulated_trial import trial_phases
from nas.replay.hybrid_rows import not_a_table, read_rows
from nas.replay.members import MemberSampler, MemberSpace
from nas.replay.published_study import ReplayJob, ReplayResult, play, replay_info, shares_of
from nas.replay.published_table import PublishedTable
from nas.samplers import make_sampler
from nas.study.config import OPTUNA_SAMPLERS, SearchConfig
from nas.study.objectives import objectives
from nas.study.pareto import reference_point
from nas.study.records import Measurement, Objective, TrialRecord, TrialState
from nas.study.timing_doubts import MIN_INTERVAL_SAMPLES, TOO_FEW
from search_space import SPACES, ArchSpec, SpecError

SPACE = "laptop"
MEASURE_S = 2.3  # seconds of a measurement in a search of that space on two cores


@dataclass(frozen=True, eq=False)
class HybridTable(PublishedTable):
    """The table, with every evaluation of every architecture.

    Attributes:
        rung_steps: Steps of each rung.
        evaluations: Rows of the file of each architecture, one a seed.
    """

    rung_steps: tuple[int, ...]
    evaluations: tuple[tuple[Mapping[str, Any], ...], ...]

    @property
    def reference(self) -> tuple[float, float]:
        """Return the reference point of a search: a score, and a cost in halvings of the reference's throughput."""
        score, log_ratio = reference_point(table_objectives())
        return score, -log_ratio


def table_objectives() -> tuple[Objective, ...]:
    """Return the objectives of a replayed search, which are those of a real one."""
    return objectives(SearchConfig().objectives, SearchConfig().distill.score)


def load_hybrid(path: str | None = None) -> HybridTable:
    """Read a table.

    Args:
        path: The file; None: the published table.

    Raises:
        ConfigError: There is no file, it is damaged, or it has fewer than two architectures that were trained.
    """
    rows = read_rows(path)
    try:
        by_arch: dict[str, list[Mapping[str, Any]]] = {}
        for row in sorted(rows, key=lambda row: row["seed"]):
            if row["state"] == TrialState.COMPLETE:
                by_arch.setdefault(row["arch_id"], []).append(row)
        specs = [ArchSpec.from_dict(of[0]["spec"]) for of in by_arch.values()]
        inside = [SPACES[SPACE].contains(spec) for spec in specs]
        members = [(spec, tuple(of)) for spec, of, kept in zip(specs, by_arch.values(), inside, strict=True) if kept]
        return _table(members)
    except (ValueError, LookupError, TypeError, SpecError) as error:
        raise not_a_table(path, error) from error


def _table(members: Sequence[tuple[ArchSpec, tuple[Mapping[str, Any], ...]]]) -> HybridTable:
    if len(members) < 2:
        raise ValueError("it has fewer than two architectures that were trained to the end")
    specs, evaluations = zip(*members, strict=True)
    seeds = max(map(len, evaluations))
    scores = np.full((len(specs), seeds), np.nan)
    for i, of in enumerate(evaluations):
        scores[i, : len(of)] = [row["scores"][-1] for row in of]
    ratios = np.array([np.mean([math.log2(row["ratio"][0]) for row in of]) for of in evaluations])
    return HybridTable(
        bench="hybrid",
        dataset="built-in data",
        space=MemberSpace.of(SPACES[SPACE], specs),
        architectures=specs,
        trainings=scores,
        train_s=np.array([sum(of[0]["seconds"]) for of in evaluations]),
        params=np.array([of[0]["params"] for of in evaluations], dtype=float),
        costs=-ratios,
        cost_label="throughput on two CPU cores",
        cost_unit="halvings of the reference's throughput",
        reference_accuracy=0.0,
        sources={},
        sizes=lambda: np.empty((len(specs), 0)),
        rung_steps=SearchConfig().distill.rung_steps[-len(evaluations[0][0]["scores"]) :],
        evaluations=evaluations,
    )


def run_hybrid(job: ReplayJob, table: HybridTable | None = None) -> ReplayResult:
    """Replay a search, in a worker process.

    Args:
        job: The search.
        table: The table; None: it is read.
    """
    settings, table = job.settings, table or load_hybrid(job.settings.table_file)
    config = hybrid_config(table, job.sampler, job.seed, min(settings.budget, len(table.architectures)))
    trials = replay_search(table, config, job.run_dir, settings.workers, job.command)
    trained = sum(t.rungs[-1].steps for t in trials) / table.rung_steps[-1]
    return ReplayResult(*shares_of(table, trials), trained)


def hybrid_config(table: HybridTable, sampler: str, seed: int, budget: int) -> SearchConfig:
    """Return the config of a replayed search: that of a real one, without baselines."""
    default = SearchConfig()
    distill = replace(default.distill, rung_steps=table.rung_steps)
    names: dict[str, Any] = {"baselines": (), "scale": ()}
    return replace(
        default, budget=budget, seed=seed, sampler=sampler, space=SPACE, device="cpu", distill=distill, **names
    )


def replay_search(
    table: HybridTable, config: SearchConfig, run_dir: Path, workers: int = 1, command: str = ""
) -> list[TrialRecord]:
    """Replay a search and return the trials that count, in the order in which they end by the simulated clock.

    Args:
        table: The table.
        config: The search's settings, with its sampler and seed.
        run_dir: Folder of the study.
        workers: Trials at a time, which share one device.
        command: Command line of the study.
    """
    sampler = make_sampler(config, table.space, table_objectives())
    if config.sampler in OPTUNA_SAMPLERS:
        sampler = MemberSampler(sampler, table.space)
    info = replay_info(table, config, run_dir.name, "a table", table_objectives(), config.reference, command)
    return play(table, sampler, info, partial(table_phases, table=table, config=config), Cluster(1, workers), run_dir)


def table_phases(record: TrialRecord, table: HybridTable, config: SearchConfig) -> Iterator[SimulatedPhase]:
    """Yield the rungs of one of the architecture's evaluations, and its measurement.

    Args:
        record: A new trial; one that is measured late is measured between two rungs.
        table: The table.
        config: The search's settings, whose seed draws the evaluation.
    """
    of = table.evaluations[table.positions[record.arch_id]]
    row = of[random.Random(f"{config.seed}/{record.arch_id}").randrange(len(of))]
    record = replace(record, params=row["params"], macs=row["macs"])
    yield from trial_phases(
        record, table.rung_steps, row["scores"], row["seconds"], _measurement(row, config), MEASURE_S
    )


def _measurement(row: Mapping[str, Any], config: SearchConfig) -> Measurement:
    """Return the timing of a row; the interval of the throughput is that of the ratio.

    Rows lack the number of samples. It is the least with an interval, unless the verdict says that there were fewer.
    """
    ratio, low, high = row["ratio"]
    speed, samples = row["img_s"], 1 if row["verdict"] == TOO_FEW else 2 * MIN_INTERVAL_SAMPLES
    return Measurement(
        device="the table's", arm=config.runtime, batch=config.measure_batch_size, resolution=config.distill.img_size,
        throughput_img_s=speed, throughput_low_img_s=speed * low / ratio, throughput_high_img_s=speed * high / ratio,
        ratio=ratio, ratio_low=low, ratio_high=high, reference=config.reference, reference_img_s=speed / ratio,
        latency_ms=row["latency_ms"], peak_memory_mib=None, samples=samples, seconds=MEASURE_S, verdict=row["verdict"],
        stages_s={name: ms / 1e3 for name, ms in row.get("stages_ms", {}).items()},
        notes=("from the table: nothing was measured here",),
    )  # fmt: skip
