"""Compare samplers by replaying searches on published results."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nas.backend.local_ranks import end_with_parent
from nas.command_log import announce, log_to
from nas.files import atomic_write
from nas.machine import cpu_count
from nas.replay.arguments import SIZES, ReplaySettings
from nas.replay.hybrid import HybridTable, load_hybrid, run_hybrid
from nas.replay.nasbench201 import load_nasbench201
from nas.replay.plots import draw
from nas.replay.published_study import ReplayJob, ReplayResult, quantiles, run_job, total_hypervolume
from nas.replay.published_table import PublishedTable
from nas.replay.tables import show
from nas.scratch import scratch_folder
from nas.terminal import stderr_console, write_line
from nas.validation import ConfigError
from reports.page import build_report

_LOG = logging.getLogger(__name__)


def replay(settings: ReplaySettings, command: str) -> int:
    """Replay all searches, print the result and write the run folder: one study with its report, and the picture."""
    console = stderr_console()
    table: PublishedTable
    if settings.bench == "hybrid":
        table = load_hybrid(settings.table_file)
    else:
        table = load_nasbench201(settings.dataset, settings.latency)
    table.features([source for source in settings.sources if source not in ("parameters", SIZES)])  # a missing file
    _check_reference(table)
    run_dir = settings.folder()
    if (run_dir / "study.db").exists():
        raise ConfigError(f"--run: {run_dir} already holds a study; choose another folder")
    log_to(run_dir, "replay", command)
    with scratch_folder("nas-replay-") as scratch:
        jobs = _jobs(settings, run_dir, scratch, command)
        results = _run_all(jobs, console, settings.jobs or cpu_count())
        for file in jobs[0].run_dir.iterdir():  # only now, so that an interrupted replay leaves no study behind
            shutil.move(file, run_dir / file.name)
    by_sampler = {name: [results[job] for job in jobs if job.sampler == name] for name in settings.samplers}
    result = _result(table, settings, by_sampler)
    atomic_write(run_dir / "replay.json", json.dumps(result, indent=1))
    picture = settings.plot or run_dir / "replay.png"
    draw(result, picture)
    for path in (picture, build_report(run_dir)):
        announce(str(path), _LOG, console)
    if settings.json:
        write_line(json.dumps(result))
    else:
        show(result)
    return 0


def _check_reference(table: PublishedTable) -> None:
    """Raise ConfigError where no architecture has a hypervolume, of which replays compare shares."""
    if total_hypervolume(table.accuracy, table.costs, table.reference) > 0:
        return
    floor, highest = table.reference
    if table.accuracy.max() > floor:
        raise ConfigError(f"--table: all networks above {floor:g} cost {highest:g} {table.cost_unit}, the most of all")
    raise ConfigError(f"--table: no score is above {floor:g}")


def _jobs(settings: ReplaySettings, run_dir: Path, scratch: Path, command: str) -> list[ReplayJob]:
    """Return all searches. The run folder, whose name is in the study, gets the study of the first one at the end."""
    searches = [
        (name, seed) for name in settings.samplers for seed in range(settings.seed, settings.seed + settings.seeds)
    ]
    folders = [scratch / "first" / run_dir.resolve().name, *(scratch / f"{name}-{seed}" for name, seed in searches[1:])]
    return [
        ReplayJob(settings, name, seed, folder, command) for (name, seed), folder in zip(searches, folders, strict=True)
    ]


def _run_all(jobs: Sequence[ReplayJob], console: Console, at_a_time: int) -> dict[ReplayJob, ReplayResult]:
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    processes = min(at_a_time, len(jobs))
    with (
        Progress(*columns, console=console, transient=True) as progress,
        ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=end_with_parent) as pool,
    ):
        task = progress.add_task("", total=len(jobs))
        run = run_hybrid if jobs[0].settings.bench == "hybrid" else run_job
        results = {}
        try:
            futures = {pool.submit(run, job): job for job in jobs}  # the first starts the processes
            for future in as_completed(futures):
                job = futures[future]
                results[job] = future.result()
                _LOG.info("replayed: %s, seed %d", job.sampler, job.seed)
                progress.advance(task)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in active_children():  # leaving the pool would wait for them
                child.kill()
            raise
    return results


def _result(table: PublishedTable, settings: ReplaySettings, results: dict[str, list[ReplayResult]]) -> dict[str, Any]:
    """Return the settings and results as plain JSON data, with the share of each seed after 1, 2, ... evaluations."""
    accuracy, highest = table.reference
    return {
        "bench": settings.bench,
        "dataset": table.dataset,
        "latency": table.cost_label,
        "reference": {"accuracy": accuracy, "cost": highest, "unit": table.cost_unit},
        "seeds": settings.seeds,
        "workers": settings.workers,
        "rungs": len(table.rung_steps) if isinstance(table, HybridTable) else 1,
        "knowledge": list(settings.sources),
        "samplers": {name: quantiles([r.shares for r in of_seeds]) for name, of_seeds in results.items()},
        "full_trainings": {name: float(np.mean([r.trained for r in of_seeds])) for name, of_seeds in results.items()},
        "curves": {name: [r.shares.round(5).tolist() for r in of_seeds] for name, of_seeds in results.items()},
        "front_curves": {
            name: [r.front_shares.round(5).tolist() for r in of_seeds] for name, of_seeds in results.items()
        },
    }
