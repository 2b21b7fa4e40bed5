"""Compare the training that studies need to reach a target study's final hypervolume.

Command:   python -m experiments.training_time runs/random_full runs/known_cost [...] [--out FILE.json]
           The first is the target, of:
           python -m nas.search --space micro --sampler random --rung-steps 270 --run runs/random_full
Hardware:  none; reads finished studies
Expected:  the default search reaches the first one's hypervolume with a tenth of its training or less.

Training is counted in distillation steps of all trials, stopped ones included, in the order in which trials ended; its
seconds are the rungs' own clock and depend on what else the machine did. Baselines are no part of either.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from nas.storage.errors import StoreError
from nas.storage.store import read_study
from nas.study.pareto import coordinates, hypervolume, reference_point
from nas.study.records import StudyRecord, TrialState


@dataclass(frozen=True)
class Spent:
    """Training of a study until it reached the target, or until its end."""

    study: str
    sampler: str
    seed: int
    rungs: tuple[int, ...]
    reached: bool
    architectures: int
    steps: int
    train_s: float
    share_of_steps: float
    share_of_seconds: float
    hypervolume: float


def curve(study: StudyRecord) -> list[tuple[float, int, float]]:
    """Return hypervolume, distillation steps and seconds of training after each trial of the budget."""
    last = len(study.info.rung_steps) - 1
    reference = reference_point(study.info.objectives)
    points, steps, seconds, after = [], 0, 0.0, []
    for trial in sorted((t for t in study.trials if t.counts), key=lambda t: (t.finished_s or 0.0, t.number)):
        steps += trial.rungs[-1].steps
        seconds += sum(rung.seconds for rung in trial.rungs)
        point = coordinates(trial, study.info.objectives, last) if trial.state is TrialState.COMPLETE else None
        if point is not None:
            points.append(point)
        after.append((hypervolume(points, reference), steps, seconds))
    return after


def spent(name: str, study: StudyRecord, target: tuple[float, int, float]) -> Spent:
    """Return the training until the hypervolume reaches the target's; shares are of the target's steps and seconds."""
    after = curve(study)
    reached = [i for i, (volume, _, _) in enumerate(after) if volume >= target[0]]
    i = reached[0] if reached else len(after) - 1
    volume, steps, seconds = after[i]
    config = study.info.config
    return Spent(
        study=name,
        sampler=config["sampler"],
        seed=config["seed"],
        rungs=tuple(study.info.rung_steps),
        reached=bool(reached),
        architectures=i + 1,
        steps=steps,
        train_s=round(seconds, 1),
        share_of_steps=round(steps / target[1], 4),
        share_of_seconds=round(seconds / target[2], 4),
        hypervolume=round(volume, 4),
    )


def main() -> int:
    """Print the table; exit code 2 for a folder without a study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the target's first")
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    arguments = parser.parse_args()
    try:
        studies = [(path.name, read_study(path)) for path in arguments.runs]
    except StoreError as error:
        parser.error(str(error))
    target = curve(studies[0][1])[-1]
    rows = [spent(name, study, target) for name, study in studies]
    print(f"target: hypervolume {target[0]:.3f} of {studies[0][0]}, {target[1]:,} steps, {target[2]:.0f} s of training")
    print("| study | sampler, seed | rungs | reached | architectures | steps | share | seconds' share | hypervolume |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        rungs = "/".join(map(str, row.rungs))
        print(
            f"| {row.study} | {row.sampler}, {row.seed} | {rungs} | {'yes' if row.reached else 'no'} "
            f"| {row.architectures} | {row.steps:,} | {row.share_of_steps:.1%} | {row.share_of_seconds:.1%} "
            f"| {row.hypervolume:.3f} |"
        )
    if arguments.out:
        arguments.out.write_text(json.dumps([vars(row) for row in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
