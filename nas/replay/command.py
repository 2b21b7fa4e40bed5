"""``python -m nas.search --bench``: searches replayed, seed by seed, beside other samplers."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from nas.config import ConfigError
from nas.pool import end_with_parent
from nas.records import TrialState
from nas.replay.curves import Array, shares, told, whole_volume
from nas.replay.names import COMPARED, KNOWN_BY_DEFAULT
from nas.replay.plot import draw
from nas.replay.session import KNOWN_COST, replay, sampler_of
from nas.replay.table import Table, load_table
from nas.samplers import SAMPLERS
from nas.storage.place import without_password

SHOWN = (10, 20, 30, 50, 100, 150, 200, 300, 500, 1000, 2000)


class Job(NamedTuple):
    """One search."""

    sampler: str
    seed: int
    run_dir: str
    dataset: str
    latency: str
    sources: tuple[str, ...]
    proxies_csv: str | None
    budget: int
    rungs: int
    workers: int
    command: str


def run(arguments: dict[str, Any], console: Console, cpus: int, build_report: Callable[[Path], Path]) -> int:
    """Replays, prints table or JSON, leaves a run folder with the first search's study, its report and the picture."""
    table = load_table(arguments.get("bench_dataset", "cifar10"), arguments["bench_latency"])
    names = (arguments["sampler"],) if "sampler" in arguments else COMPARED
    if unknown := [name for name in names if name not in SAMPLERS]:
        raise ConfigError(f"--sampler: unknown sampler {unknown[0]!r}; choose one of: {', '.join(SAMPLERS)}")
    seeds, first = arguments.get("seeds", 20), arguments.get("seed", 0)
    stamp = datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")
    run_dir = Path(arguments.get("run", f"runs/{stamp}-replay-{table.dataset}"))
    if (run_dir / "study.db").exists():
        raise ConfigError(f"--run: {run_dir} already holds a study; choose another folder")
    budget = min(arguments.get("budget", 200), len(table.cells))
    with tempfile.TemporaryDirectory(prefix="nas-replay-") as scratch:
        jobs = [
            Job(
                sampler=name,
                seed=seed,
                run_dir=str(run_dir if (name, seed) == (names[0], first) else Path(scratch) / f"{name}-{seed}"),
                dataset=table.dataset,
                latency=arguments["bench_latency"],
                sources=arguments.get("bench_knowledge", KNOWN_BY_DEFAULT),
                proxies_csv=arguments.get("bench_proxies"),
                budget=budget,
                rungs=arguments.get("bench_rungs", 1),
                workers=arguments.get("workers", 1),
                command="python -m nas.search " + shlex.join(without_password(sys.argv[1:])),
            )
            for name in names
            for seed in range(first, first + seeds)
        ]
        found = _all(jobs, console, cpus)
    curves = {name: [found[job][0] for job in jobs if job.sampler == name] for name in names}
    trained = {name: float(np.mean([found[job][1] for job in jobs if job.sampler == name])) for name in names}
    result = _result(table, jobs[0], curves, trained)
    (run_dir / "replay.json").write_text(json.dumps(result, indent=1))
    picture = Path(arguments.get("plot", run_dir / "replay.png"))
    draw(result, picture)
    for path in (picture, build_report(run_dir)):
        console.print(str(path), highlight=False, markup=False)
    if arguments.get("json"):
        print(json.dumps(result))
    else:
        _show(result)
    return 0


def _all(jobs: Sequence[Job], console: Console, cpus: int) -> dict[Job, tuple[Array, float]]:
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Progress(*columns, console=console, transient=True) as progress,
        ProcessPoolExecutor(min(cpus, len(jobs)), mp_context=get_context("spawn"), initializer=end_with_parent) as pool,
    ):
        task = progress.add_task("", total=len(jobs))
        futures = {pool.submit(play, job): job for job in jobs}
        found = {}
        try:
            for future in as_completed(futures):
                found[futures[future]] = future.result()
                progress.advance(task)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def play(job: Job) -> tuple[Array, float]:
    """Share of the true hypervolume by evaluations, and full trainings' worth of training; in a worker process."""
    table = load_table(job.dataset, job.latency)
    sampler = sampler_of(job.sampler, table, job.seed, job.sources, job.proxies_csv, job.rungs)
    ended = replay(
        table,
        job.sampler,
        sampler,
        Path(job.run_dir),
        budget=job.budget,
        seed=job.seed,
        rungs=job.rungs,
        workers=job.workers,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=job.command,
    )
    accuracy = [t.rungs[-1].quality if t.state is TrialState.COMPLETE else -np.inf for t in ended]
    latency = [t.measurement.latency_ms for t in ended if t.measurement]
    whole = whole_volume(table.accuracy, table.latency_ms, table.reference)
    last = max(r.steps for t in ended for r in t.rungs)
    return shares(accuracy, latency, table.reference, whole), sum(t.rungs[-1].steps / last for t in ended)


def _result(table: Table, job: Job, curves: dict[str, list[Array]], trained: dict[str, float]) -> dict[str, Any]:
    accuracy, slowest = table.reference
    return {
        "bench": "nasbench201",
        "dataset": table.dataset,
        "latency": table.device,
        "reference": {"accuracy": accuracy, "latency_ms": slowest},
        "seeds": len(next(iter(curves.values()))),
        "workers": job.workers,
        "rungs": job.rungs,
        "emulated_rungs": job.rungs > 1,
        "knowledge": list(job.sources),
        "samplers": {name: told(found) for name, found in curves.items()},
        "full_trainings": trained,
    }


def _show(result: dict[str, Any]) -> None:
    print(f"{result['dataset']} x {result['latency']}: share of the true hypervolume, by architectures evaluated:")
    print(f"median and 5th to 95th percentile of {result['seeds']} seeds")
    shown = RichTable(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    shown.add_column("", justify="right")
    for name in result["samplers"]:
        shown.add_column(name, no_wrap=True)
    length = len(next(iter(result["samplers"].values()))["evaluations"])
    for n in sorted({n for n in SHOWN if n <= length} | {length}):
        cells = (
            f"{curve['median'][n - 1]:.3f} {curve['p5'][n - 1]:.2f}-{curve['p95'][n - 1]:.2f}"
            for curve in result["samplers"].values()
        )
        shown.add_row(str(n), *cells)
    Console().print(shown)
    print(_caption(result))


def _caption(result: dict[str, Any]) -> str:
    reference = result["reference"]
    text = f"counted from {reference['accuracy']:g} % and {reference['latency_ms']:g} ms, both axes linear"
    if KNOWN_COST in result["samplers"]:
        text += f"; {KNOWN_COST} is told of every cell: its latency, {', '.join(result['knowledge'])}"
    if result["emulated_rungs"]:
        spent = ", ".join(f"{name} {value:.0f}" for name, value in result["full_trainings"].items())
        text += f"; {result['rungs']} rungs, those below the last EMULATED; full trainings' worth of training: {spent}"
    return text
