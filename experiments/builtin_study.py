"""Compare samplers in real searches of the built-in data: hypervolume by evaluations, training steps and seconds.

Command:   python -m experiments.builtin_study --run runs/study [--old TREE] [--methods new evolution] [--seeds 0 1 2]
           python -m experiments.builtin_study            (prints the tables of the saved rows)
Hardware:  for --run two idle cores, some 25 minutes a search; none for the tables
Expected:  see experiments/LOG.md

Each search is `python -m nas.search --budget 200`, in the space micro but for the methods named laptop; one follows the
other, seed by seed, so that a change of the machine meets all methods. The same command continues: finished searches
are kept, an interrupted one is resumed. `old` is the search of another checkout, TREE. Rows are saved in
experiments/results/builtin_study.json after each search, beside those that the file has.

Training seconds are the rungs' own clock; wall seconds are the study's. Baselines are no part of steps and training
seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from experiments.finished_points import finished_points
from nas.files import atomic_write
from nas.measure.environment import environment
from nas.storage.errors import StoreError
from nas.storage.store import read_study
from nas.study.pareto import front, hypervolume, reference_point
from nas.study.records import StudyRecord

BUDGET = 200
ROWS = Path(__file__).parent / "results" / "builtin_study.json"
MICRO, LAPTOP = ("--space", "micro"), ("--space", "laptop")
METHODS = {
    "new": MICRO,
    "halving": (*MICRO, "--front-gain", "0"),
    "first": (*MICRO, "--measure-first", "--front-gain", "0"),
    "old": MICRO,  # of another checkout
    "evolution": (*MICRO, "--sampler", "evolution"),
    "random": (*MICRO, "--sampler", "random"),
    "laptop": LAPTOP,
    "laptop-halving": (*LAPTOP, "--front-gain", "0"),
    "laptop-evolution": (*LAPTOP, "--sampler", "evolution"),
    "laptop-random": (*LAPTOP, "--sampler", "random"),
    "random-full": (*MICRO, "--sampler", "random", "--rung-steps", "270"),
}
SHOWN = (15, 30, 60, 100, 150, 200)  # evaluations


@dataclass(frozen=True)
class Course:
    """A search of the budget: what it had spent, and its hypervolume, after each evaluation."""

    method: str
    seed: int
    cpu: str
    front: int
    steps: tuple[int, ...]
    train_s: tuple[float, ...]
    wall_s: tuple[float, ...]
    hypervolume: tuple[float, ...]

    @classmethod
    def of(cls, method: str, study: StudyRecord) -> Course:
        """Return the course of the first BUDGET evaluations of a study."""
        info = study.info
        ended = sorted((t for t in study.trials if t.counts), key=lambda t: (t.finished_s or 0.0, t.number))[:BUDGET]
        steps, train_s, volumes = [0], [0.0], []
        for count, trial in enumerate(ended, start=1):
            steps.append(steps[-1] + trial.rungs[-1].steps)
            train_s.append(round(train_s[-1] + sum(rung.seconds for rung in trial.rungs), 2))
            points = finished_points(ended[:count], info.objectives)[1]
            volumes.append(round(hypervolume(points, reference_point(info.objectives)), 5))
        points = finished_points(ended, info.objectives)[1]
        return cls(
            method=method,
            seed=int(info.config["seed"]),
            cpu=str(info.environment.get("cpu", "")),
            front=len(front(points)),
            steps=tuple(steps[1:]),
            train_s=tuple(train_s[1:]),
            wall_s=tuple(round(t.finished_s or 0.0, 1) for t in ended),
            hypervolume=tuple(volumes),
        )

    def until(self, target: float) -> int | None:
        """Return the evaluations until the hypervolume reaches a target; None where it never does."""
        return next((i for i, volume in enumerate(self.hypervolume, start=1) if volume >= target), None)


def load(path: Path = ROWS) -> list[Course]:
    """Return the saved courses."""
    if not path.exists():
        return []
    return [Course(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}) for row in _rows(path)]


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text())
    return rows


def save(course: Course, path: Path = ROWS) -> None:
    """Add a course to the file, in place of one of the same method and seed."""
    kept = [c for c in load(path) if (c.method, c.seed) != (course.method, course.seed)]
    rows = sorted([*kept, course], key=lambda c: (list(METHODS).index(c.method), c.seed))
    atomic_write(path, "[\n" + ",\n".join(json.dumps(vars(c), separators=(",", ":")) for c in rows) + "\n]\n")


def run(folder: Path, method: str, seed: int, tree: Path | None) -> None:
    """Run, or resume, a search to its end."""
    words = ["--budget", str(BUDGET), "--seed", str(seed), *METHODS[method], "--run", str(folder)]
    if (folder / "study.db").exists():
        words = ["--resume", str(folder)]
    here = tree or Path.cwd()
    command = [sys.executable, "-m", "nas.search", *words]
    subprocess.run(command, check=True, cwd=here, env={**os.environ, "PYTHONPATH": str(here)})


def _print_by_evaluations(courses: Sequence[Course]) -> None:
    print(f"Hypervolume, median (lowest to highest), CPUs: {', '.join(sorted({c.cpu for c in courses}))}")
    print(f"| search | seeds | {' | '.join(f'after {n}' for n in SHOWN)} | front | steps | training | wall |")
    print(f"|---|--:|{'--:|' * (len(SHOWN) + 4)}")
    for method in METHODS:
        group = [c for c in courses if c.method == method]
        if not group:
            continue
        cells = [_spread([c.hypervolume[n - 1] for c in group], 3) for n in SHOWN]
        cells += [_spread([float(c.front) for c in group], 0), _spread([float(c.steps[-1]) for c in group], 0)]
        cells += [f"{_spread([c.train_s[-1] for c in group], 0)} s", f"{_spread([c.wall_s[-1] for c in group], 0)} s"]
        print(f"| {method} | {len(group)} | {' | '.join(cells)} |")


def _print_to_target(courses: Sequence[Course], target: str) -> None:
    """Print what each search had spent when it reached the final hypervolume of `target` with the same seed."""
    finals = {c.seed: c for c in courses if c.method == target}
    print(f"\nSpent until the final hypervolume of {target} with the same seed, as shares of what {target} spent")
    print("| search | seed | evaluations | steps | training seconds | wall seconds |\n|---|--:|--:|--:|--:|--:|")
    for course in courses:
        other = finals.get(course.seed)
        same_space = course.method.startswith("laptop") == target.startswith("laptop")
        if other is None or course.method == target or not same_space:
            continue
        n = course.until(other.hypervolume[-1])
        if n is None:
            share = course.hypervolume[-1] / other.hypervolume[-1]
            print(f"| {course.method} | {course.seed} | never: it ends at {share:.1%} of it | | | |")
            continue
        shares = (getattr(course, name)[n - 1] / getattr(other, name)[-1] for name in ("steps", "train_s", "wall_s"))
        print(f"| {course.method} | {course.seed} | {n} | {' | '.join(f'{share:.1%}' for share in shares)} |")


def _spread(values: Sequence[float], digits: int) -> str:
    middle = f"{median(values):,.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def main(words: Sequence[str] | None = None) -> int:
    """Run what is missing, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="for the searches; without it, print the tables")
    parser.add_argument("--old", type=Path, metavar="TREE", help="checkout of the method old")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=Path, default=ROWS, help="file of the rows")
    arguments = parser.parse_args(words)
    if arguments.run is not None:
        if "old" in arguments.methods and arguments.old is None:
            parser.error("--old: the method old needs the checkout that it is of")
        print(f"on {environment('cpu')['cpu']}", flush=True)
        for seed in arguments.seeds:
            for method in arguments.methods:
                folder = (arguments.run / f"{method}-{seed}").resolve()
                run(folder, method, seed, arguments.old.resolve() if method == "old" else None)
                try:
                    save(Course.of(method, read_study(folder)), arguments.rows)
                except StoreError as error:
                    parser.error(str(error))
    courses = load(arguments.rows)
    if not courses:
        parser.error(f"{arguments.rows} has no rows yet; --run FOLDER makes them")
    _print_by_evaluations(courses)
    for target in ("old", "first", "random-full", "random", "laptop-random", "laptop-evolution"):
        if any(c.method == target for c in courses):
            _print_to_target(courses, target)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
