"""Compare samplers by replaying searches on published results."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nas.backend.pool import end_with_parent
from nas.cli import cpu_count, stderr_console
from nas.command_log import announce, log_to
from nas.replay.arguments import ReplaySettings
from nas.replay.nasbench201 import Array, PublishedTable, load_table
from nas.replay.plots import draw
from nas.replay.published_study import ReplayJob, quantiles, run_job
from nas.replay.tables import show
from nas.scratch import scratch_folder
from nas.study.config import ConfigError
from nas.terminal import write_line
from reports.page import build_report

_LOG = logging.getLogger(__name__)


def replay(settings: ReplaySettings, command: str) -> int:
    """Replay all searches, print the result and write the run folder: one study with its report, and the picture."""
    console = stderr_console()
    table = load_table(settings.dataset, settings.latency)
    run_dir = settings.folder()
    if (run_dir / "study.db").exists():
        raise ConfigError(f"--run: {run_dir} already holds a study; choose another folder")
    log_to(run_dir, "replay", command)
    with scratch_folder("nas-replay-") as scratch:
        jobs = _jobs(settings, run_dir, scratch, command)
        results = _run_all(jobs, console)
    curves = {name: [results[job][0] for job in jobs if job.sampler == name] for name in settings.samplers}
    trained = {
        name: float(np.mean([results[job][1] for job in jobs if job.sampler == name])) for name in settings.samplers
    }
    result = _result(table, settings, curves, trained)
    (run_dir / "replay.json").write_text(json.dumps(result, indent=1))
    picture = settings.plot or run_dir / "replay.png"
    draw(result, picture)
    for path in (picture, build_report(run_dir)):
        announce(str(path), _LOG, console)
    if settings.json:
        write_line(json.dumps(result))
    else:
        show(result)
    return 0


def _jobs(settings: ReplaySettings, run_dir: Path, scratch: Path, command: str) -> list[ReplayJob]:
    """Return all searches. The run folder keeps the study of the first one."""
    searches = [
        (name, seed) for name in settings.samplers for seed in range(settings.seed, settings.seed + settings.seeds)
    ]
    folders = [run_dir, *(scratch / f"{name}-{seed}" for name, seed in searches[1:])]
    return [
        ReplayJob(settings, name, seed, folder, command) for (name, seed), folder in zip(searches, folders, strict=True)
    ]


def _run_all(jobs: Sequence[ReplayJob], console: Console) -> dict[ReplayJob, tuple[Array, float]]:
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    processes = min(cpu_count(), len(jobs))
    with (
        Progress(*columns, console=console, transient=True) as progress,
        ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=end_with_parent) as pool,
    ):
        task = progress.add_task("", total=len(jobs))
        futures = {pool.submit(run_job, job): job for job in jobs}
        results = {}
        try:
            for future in as_completed(futures):
                job = futures[future]
                results[job] = future.result()
                _LOG.info("replayed: %s, seed %d", job.sampler, job.seed)
                progress.advance(task)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def _result(
    table: PublishedTable, settings: ReplaySettings, curves: dict[str, list[Array]], trained: dict[str, float]
) -> dict[str, Any]:
    """Return the settings and results as plain JSON data; `curves` has the share of each seed after 1, 2, ... cells."""
    accuracy, slowest = table.reference
    return {
        "bench": settings.bench,
        "dataset": table.dataset,
        "latency": table.device,
        "reference": {"accuracy": accuracy, "latency_ms": slowest},
        "seeds": settings.seeds,
        "workers": settings.workers,
        "rungs": settings.rungs,
        "emulated_rungs": settings.rungs > 1,
        "knowledge": list(settings.knowledge),
        "samplers": {name: quantiles(shares) for name, shares in curves.items()},
        "full_trainings": trained,
        "curves": {name: [share.round(5).tolist() for share in shares] for name, shares in curves.items()},
    }
