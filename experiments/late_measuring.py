"""Compare searches that measure late with searches that measure first, and show when each converged.

Command:   python -m nas.search --space micro --budget 200 --run runs/late
           python -m nas.search --space micro --budget 200 --run runs/first --measure-first
           python -m experiments.late_measuring runs/late runs/first --save experiments/results/late_measuring.json
           python -m experiments.late_measuring experiments/results/late_measuring.json
Hardware:  any for the last command; the searches run one after the other, on an otherwise idle machine

Prints for each search: wall time, where the workers' seconds went, models measured, the error of the predictions, the
front and its hypervolume, how many candidates had been predicted on the front; then hypervolume and expected gain over
noise after every tenth evaluation.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from experiments.finished_points import finished_points
from nas.files import atomic_write
from nas.storage.store import read_study
from nas.study.convergence import LATEST, gain_ratios, is_below_noise
from nas.study.pareto import front, hypervolume, reference_point
from nas.study.records import StudyInfo, StudyRecord, TrialRecord, TrialState


def load(path: Path) -> list[tuple[str, StudyRecord]]:
    """Return the searches of a run folder or of a saved file, by name."""
    if path.is_dir():
        return [(path.name, read_study(path))]
    saved = json.loads(path.read_text())
    return [(name, _study(row)) for name, row in saved.items()]


def _study(row: dict[str, Any]) -> StudyRecord:
    trials = tuple(TrialRecord.from_dict(t) for t in row["trials"])
    return StudyRecord(StudyInfo.from_dict(row["info"]), trials)


def saved(study: StudyRecord) -> dict[str, Any]:
    """Return what this script needs of a study, as plain data."""
    return {"info": study.info.to_dict(), "trials": [_without_details(t).to_dict() for t in study.trials]}


def _without_details(trial: TrialRecord) -> TrialRecord:
    measurement = trial.measurement and replace(trial.measurement, stages_s={}, conditions={}, notes=())
    rungs = tuple(replace(rung, teachers={}, losses={}, metrics={}) for rung in trial.rungs)
    return replace(trial, spec={}, measurement=measurement, rungs=rungs)


def show(name: str, study: StudyRecord) -> None:
    """Print the numbers of one search."""
    info, sampled = study.info, [t for t in study.trials if not t.baseline]
    trained = [t for t in sampled if t.rungs]
    spent = ", ".join(f"{purpose} {seconds:.0f}" for purpose, seconds in info.time_spent.items())
    steps = sum(t.rungs[-1].steps for t in trained)
    _, points = finished_points(study.trials, info.objectives)
    wall_s, workers = sum(s["wall_s"] for s in info.sessions), info.sessions[-1].get("workers")
    print(f"{name}: {wall_s:.0f} s of {workers} workers; {spent}")
    print(f"  {steps} steps, {sum(t.measurement is not None for t in trained)} of {len(trained)} candidates measured")
    print(f"  front {len(front(points))}, hypervolume {hypervolume(points, reference_point(info.objectives)):.4f}")
    late = [(t, t.expected.ratio) for t in sampled if t.expected is not None and t.expected.ratio is not None]
    errors = sorted(abs(ratio / t.measurement.ratio - 1) for t, ratio in late if t.measurement)
    if errors:
        again = sum(t.state is TrialState.STOPPED and len(t.rungs) == 1 and t.measurement is not None for t, _ in late)
        print(
            f"  measured late {len(late)}: {len(late) - len(errors)} ended unmeasured, {again} by the measurement;"
            f" {len(errors)} predictions off by {100 * median(errors):.1f} % (median), {100 * errors[-1]:.1f} % (most)"
        )


def show_hopes(study: StudyRecord) -> None:
    """Print how many candidates the sampler had predicted to be on the front of its day, by the rung they ended at."""
    sampled = [t for t in study.trials if not t.baseline]
    ends: dict[int, list[bool]] = {}
    for trial in sampled:
        ratio = trial.measurement.ratio if trial.measurement else trial.predicted_ratio
        if trial.expected is None or ratio is None or not trial.rungs:
            continue
        before = [t for t in sampled if t.state is TrialState.COMPLETE and (t.finished_s or 0) < (trial.started_s or 0)]
        better = any(
            t.final_score >= trial.expected.score and t.measurement and t.measurement.ratio >= ratio for t in before
        )
        ends.setdefault(len(trial.rungs), []).append(not better)
    words = ", ".join(
        f"{sum(hoped)} of {len(hoped)} that ended at rung {rung - 1}" for rung, hoped in sorted(ends.items())
    )
    print(f"  predicted on the front: {words}")


def show_course(study: StudyRecord) -> None:
    """Print hypervolume and expected gain over noise after every tenth evaluation, and where it converged."""
    ratios = {r.proposal: r.ratio for r in gain_ratios({t.number: t for t in study.trials})}
    ended = sorted((t for t in study.trials if t.counts), key=lambda t: t.finished_s or 0.0)
    _, points = finished_points(study.trials, study.info.objectives)
    reference = reference_point(study.info.objectives)
    final = hypervolume(points, reference)
    first = next((number for number, ratio in sorted(ratios.items()) if is_below_noise(ratio)), None)
    for count in range(LATEST, len(ended) + 1):
        newest = max(t.number for t in ended[:count])
        crossed = first is not None and ended[count - 1].number == first
        if count % LATEST and not crossed:
            continue
        volume = hypervolume(finished_points(ended[:count], study.info.objectives)[1], reference)
        ratio = next((ratios[n] for n in range(newest, -1, -1) if n in ratios), float("nan"))
        print(
            f"  {count:4} evaluated, {ended[count - 1].finished_s or 0.0:6.0f} s: hypervolume {volume:.4f}"
            f" ({100 * volume / final:.1f} %), gain {ratio:.2f}x noise{'  <- first below the noise' if crossed else ''}"
        )


def main(words: Sequence[str] | None = None) -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("searches", nargs="+", type=Path, help="run folders, or files of --save")
    parser.add_argument("--save", type=Path)
    args = parser.parse_args(words)
    searches = [search for path in args.searches for search in load(path)]
    if args.save:
        atomic_write(args.save, json.dumps({name: saved(study) for name, study in searches}, separators=(",", ":")))
    for name, study in searches:
        show(name, study)
        show_hopes(study)
        show_course(study)


if __name__ == "__main__":
    main()
