"""Compare the default search with random search: the same study per sampler and seed, and their hypervolumes.

Command:   python -m experiments.sampler_control --seeds 3
Hardware:  two CPU cores, no GPU
Time:      samplers x seeds x the time of one search (see experiments/LOG.md for the last run)
Expected:  evolution above random in the mean over seeds; in every study a candidate at least as good as the best
           E-RADIO baseline at 1.2x its throughput or more.

Finished searches are not run again: the same command prints the table at any time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from nas.storage.store import read_study
from nas.study.pareto import coordinates, finished_points, front, hypervolume, reference_point
from nas.study.records import StudyRecord, TrialRecord, TrialState


@dataclass(frozen=True)
class Row:
    """Outcome of one study. `speedup` of the fastest candidate as good as the best E-RADIO baseline is over it."""

    sampler: str
    seed: int
    evaluated: int
    complete: int
    front_size: int
    hypervolume: float
    best_score: float
    baseline: str
    baseline_score: float
    speedup: float | None
    wall_s: float


def summarize(study: StudyRecord) -> Row:
    """Return the row of one finished study; throughput is the paired ratio to the reference backbone."""
    config, objectives = study.info.config, study.info.objectives
    complete, points = finished_points(study.trials, objectives)
    baselines = [t for t in study.trials if t.baseline and t.state is TrialState.COMPLETE]
    best = max(baselines, key=lambda t: t.final_score)
    as_good = [ratio(t) for t in complete if t.final_score >= best.final_score]
    return Row(
        sampler=config["sampler"],
        seed=config["seed"],
        evaluated=sum(t.counts for t in study.trials),
        complete=len(complete),
        front_size=len(front(points)),
        hypervolume=round(hypervolume(points, reference_point(objectives)), 4),
        best_score=round(max(t.final_score for t in complete), 4),
        baseline=best.baseline,
        baseline_score=round(best.final_score, 4),
        speedup=round(max(as_good) / ratio(best), 2) if as_good else None,
        wall_s=round(sum(session["wall_s"] for session in study.info.sessions)),
    )


def ratio(trial: TrialRecord) -> float:
    """Return the throughput relative to the study's reference backbone."""
    assert trial.measurement is not None
    return trial.measurement.ratio


def volume_after(study: StudyRecord, evaluated: int) -> float:
    """Return the hypervolume after that many evaluated architectures, in the order in which they finished."""
    counted = sorted((t for t in study.trials if t.counts), key=lambda t: t.finished_s or 0.0)[:evaluated]
    last = len(study.info.rung_steps) - 1
    points = [coordinates(t, study.info.objectives, last) for t in counted if t.state is TrialState.COMPLETE]
    return hypervolume([p for p in points if p is not None], reference_point(study.info.objectives))


def search(sampler: str, seed: int, budget: int, run: Path, more: list[str]) -> None:
    """Run one search; its log is next to its folder."""
    command = [sys.executable, "-m", "nas.search", "--space", "micro", "--budget", str(budget)]
    command += ["--sampler", sampler, "--seed", str(seed)]
    with run.with_suffix(".log").open("w") as log:
        subprocess.run([*command, "--run", str(run), *more], stderr=log, stdout=log, check=True)


def main() -> None:
    """Run the missing searches, print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=200)
    parser.add_argument("--samplers", default="evolution,random")
    parser.add_argument("--runs", type=Path, default=Path("runs/sampler_control"))
    parser.add_argument("--out", type=Path, default=Path("experiments/results/sampler_control.json"))
    parser.add_argument("more", nargs="*", help="further arguments of nas.search, after --")
    arguments = parser.parse_args()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in range(arguments.seeds):
        for sampler in arguments.samplers.split(","):
            run = arguments.runs / f"{sampler}-s{seed}"
            if not run.exists():
                search(sampler, seed, arguments.budget, run, arguments.more)
            study = read_study(run)
            rows.append(
                vars(summarize(study)) | {"after": {n: round(volume_after(study, n), 4) for n in (50, 100, 200)}}
            )
            print(rows[-1], flush=True)
            arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
