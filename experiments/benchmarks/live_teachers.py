"""Measure how long a student waits for teachers that run while it trains.

    python -m experiments.benchmarks.live_teachers            (on an otherwise idle machine)
    python -m experiments.benchmarks.live_teachers --report

Each student trains with `backbone-nas train`, in a process of its own: once with cached targets, then with each set of
teachers live, on the built-in images with augmentation. The teachers run in threads of the student's process, on its
device. history.csv has the time of a step, and the share of it that the student waits for images and targets. What a
batch of live targets takes alone, its images included, is measured while nothing trains.

On a CPU, student and teachers compute on the same cores, so that a step takes about as long as both alone together.

Rows are saved in experiments/results/live_teachers.json; existing ones are not measured again.

Hardware:  two cores, idle; some 8 minutes
Expected:  see experiments/LOG.md
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from experiments.distillation.parallel import load_rows, save_rows
from nas.cache import open_targets
from nas.distill.batches import Schedule
from nas.distill.live import LiveSource, LiveTeachers
from nas.machine import cache_root
from nas.study.config import Group
from nas.study.training_files import SPEED, WAITING, read_history

RESULTS = Path(__file__).parents[1] / "results" / "live_teachers.json"
STUDENTS = ("eradio_femto", "eradio_nano", "timm:resnet18")
TEACHERS = ("xfeat", "lite0", "hed", "builtin")
CACHED = "cached"
BATCH, PX, GRID, IMAGES, HELD_OUT = 32, 64, 4, 256, 64
STEPS, FIRST = 80, 20  # of a training; those before FIRST are left out
BATCHES = 8  # of live targets that are timed alone, after the first
CPU = torch.device("cpu")
Row = dict[str, Any]


def trained(student: str, teachers: str) -> Row:
    """Return the mean milliseconds of a step, and of the student's wait in it, of one training.

    Args:
        student: Architecture as `backbone-nas train` takes it.
        teachers: Teachers that run live; CACHED for the cached targets of all built-in ones, with heads for all.
    """
    live = [] if teachers == CACHED else ["--live", "--teachers", teachers]
    with TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = [student, "--run", run, "--img-size", PX, "--batch-size", BATCH, "--train-steps", STEPS]
        words += ["--eval-every", STEPS, "--train-images", IMAGES, "--val-images", HELD_OUT, "--device", "cpu"]
        words += ["--measure-seconds", 0.2, "--log", "none", *live]
        subprocess.run([sys.executable, "-m", "nas.train", *map(str, words)], check=True, stderr=subprocess.DEVNULL)
        history = read_history(run)
    steps = [
        (1e3 * BATCH / speed, waiting)
        for step, speed, waiting in zip(history["step"], history[SPEED], history[WAITING], strict=True)
        if step > FIRST
    ]
    return {
        "student": student,
        "teachers": teachers,
        "step_ms": round(fmean(ms for ms, _ in steps), 1),
        "wait_ms": round(fmean(ms * share for ms, share in steps), 1),
    }


def alone(teachers: str) -> Row:
    """Return the median milliseconds that a batch of live targets takes while nothing trains."""
    root = cache_root(None)
    sizes = {"train_images": IMAGES, "val_images": HELD_OUT, "image_px": PX, "grid": GRID}
    targets = open_targets("builtin", teachers, root=root, **sizes, seed=0)  # type: ignore[arg-type]
    source = LiveSource(LiveTeachers("builtin", IMAGES, teachers, root), targets, CPU, threads=torch.get_num_threads())
    schedule = Schedule((Group(tuple(targets.teachers), BATCH, (PX,)),), len(source), 0)
    times = []
    for plan in (schedule[step] for step in range(BATCHES + 1)):
        began = time.perf_counter()
        source.read(plan, plan.rows, CPU)
        times.append(1e3 * (time.perf_counter() - began))
    return {"teachers": teachers, "batch_ms": round(median(times[1:]), 1)}


def report(rows: list[Row]) -> None:
    """Print each training with what its parts take alone."""
    batches = {row["teachers"]: row["batch_ms"] for row in rows if "batch_ms" in row}
    steps = {(row["student"], row["teachers"]): row for row in rows if "step_ms" in row}
    print("| student | live teachers | student's step alone | teachers' batch alone | step | over both | wait |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for (student, teachers), row in steps.items():
        if teachers in batches and (student, CACHED) in steps:
            own, batch, step = steps[student, CACHED]["step_ms"], batches[teachers], row["step_ms"]
            own_ms, batch_ms, step_ms, wait_ms = (f"{ms:.0f} ms" for ms in (own, batch, step, row["wait_ms"]))
            cells = (student, teachers, own_ms, batch_ms, step_ms, f"{step / (own + batch):.2f}", wait_ms)
            print(f"| {' | '.join(cells)} |")


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="only print the table of existing rows (default: no)")
    only_report, rows = parser.parse_args().report, load_rows(RESULTS)
    done = {(row.get("student"), row["teachers"]) for row in rows}
    jobs = [*product((None,), TEACHERS), *product(STUDENTS, (CACHED, *TEACHERS))]
    for student, teachers in () if only_report else [job for job in jobs if job not in done]:
        rows.append(row := alone(teachers) if student is None else trained(student, teachers))
        save_rows(RESULTS, rows)
        print(row, flush=True)
    report(rows)


if __name__ == "__main__":
    main()
