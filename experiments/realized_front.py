"""Show what a front is worth when its models are trained again, and what replications before the choice would gain.

Command:   python -m nas.retrain RUN --baselines
           python -m experiments.realized_front RUN
Hardware:  none; reads a study with retrainings
Expected:  see experiments/LOG.md

A user with a need for speed takes the model with the highest known score among those that are fast enough. The realized
hypervolume is what the models so chosen are worth with seeds that had no part in the choice: the hypervolume of a front
whose members keep their places, with the scores of the other seeds. All scores are those after the study's last rung.
Known scores are of the search's own training, or the mean of it and of 1, 2, ... retrainings; every choice of them
counts, and each of the seeds that are left. Candidates are the study's front and the near misses that were retrained.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean

from nas.analysis.retraining import RetrainedCandidate, RetrainingSummary, summarize_retraining
from nas.storage.store import Store
from nas.study.objectives import OBJECTIVES
from nas.study.pareto import coordinate, hypervolume, reference_point
from nas.study.records import Objective, StudyRecord


def realized(
    known: Sequence[float], true: Sequence[float], ratios: Sequence[float], plane: Sequence[Objective]
) -> float:
    """Return the hypervolume by the `true` scores of the models that the `known` scores choose for each speed."""
    reference, (score, speed) = reference_point(plane), plane
    order = sorted(range(len(known)), key=lambda i: -ratios[i])
    volume, best = 0.0, order[0]
    for i, following in zip(order, [*order[1:], None], strict=True):
        best = max(best, i, key=lambda j: known[j])
        slower = reference[1] if following is None else coordinate(speed, ratios[following])
        width = coordinate(speed, ratios[i]) - max(slower, reference[1])
        volume += max(width, 0.0) * max(coordinate(score, true[best]) - reference[0], 0.0)
    return volume


def show(study: StudyRecord, summary: RetrainingSummary) -> None:
    """Print the front's hypervolume by the search's scores and by others, and the realized ones by replications."""
    objectives = {o.name: o for o in study.info.objectives}
    plane = [objectives.get(name, OBJECTIVES[name].objective) for name in ("score", "throughput")]
    last, seeds = study.info.rung_steps[-1], summary.seeds
    found = [c for c in summary.complete if not c.trial.baseline and c.stopped_after is None]
    candidates = [c for c in found if all(c.score_at(last, seed) is not None for seed in seeds)]
    front = [c for c in candidates if c.was_on_front]
    again = {c.trial.number: {seed: c.score_at(last, seed) or 0.0 for seed in seeds} for c in candidates}
    searched = _volume(front, {c.trial.number: c.trial.final_score for c in front}, plane)
    print(f"front of {len(front)}, hypervolume after {last} steps: {searched:.4f} by the search's scores")
    for seed in seeds:
        print(f"  {_volume(front, {n: by[seed] for n, by in again.items()}, plane):.4f} by those of seed {seed}")
    ratios = [_ratio(c) for c in candidates]
    print(f"realized hypervolume of {len(candidates)} candidates, known by the search and by retrainings:")
    for count in range(len(seeds)):
        volumes = []
        for chosen in combinations(seeds, count):
            known = [fmean([c.trial.final_score, *(again[c.trial.number][s] for s in chosen)]) for c in candidates]
            for other in (s for s in seeds if s not in chosen):
                volumes.append(realized(known, [again[c.trial.number][other] for c in candidates], ratios, plane))
        print(f"  {count}: {fmean(volumes):.4f} ({min(volumes):.4f} to {max(volumes):.4f}, {len(volumes)} draws)")
    for other in seeds:
        own = [again[c.trial.number][other] for c in candidates]
        print(f"  {realized(own, own, ratios, plane):.4f} if seed {other} were known")


def _volume(candidates: Sequence[RetrainedCandidate], scores: Mapping[int, float], plane: Sequence[Objective]) -> float:
    points = [(coordinate(plane[0], scores[c.trial.number]), coordinate(plane[1], _ratio(c))) for c in candidates]
    return hypervolume(points, reference_point(plane))


def _ratio(c: RetrainedCandidate) -> float:
    assert c.measurement is not None
    return c.measurement.ratio


def main() -> int:
    """Print the figures of a run; exit code 2 where nothing was retrained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    arguments = parser.parse_args()
    with Store.open(arguments.run, read_only=True) as store:
        study, retrainings, remeasurements = store.read_all()
    summary = summarize_retraining(study, retrainings, remeasurements)
    if summary is None:
        parser.error(f"{arguments.run} has no retrainings; backbone-nas retrain makes them")
    show(study, summary)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
