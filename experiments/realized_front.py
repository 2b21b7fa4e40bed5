"""Show what a front is worth when its models are trained again, and what replications before the choice would gain.

Command:   python -m nas.retrain RUN --baselines --early-stopped 10
           python -m experiments.realized_front RUN --save experiments/results/retrained_study.json
           python -m experiments.realized_front --rows experiments/results/retrained_study.json
Hardware:  none; reads a study with retrainings, or its rows
Expected:  see experiments/LOG.md

A user who needs a speed takes the model with the highest known score among those that are fast enough. The realized
hypervolume is what the models so chosen are worth with seeds that had no part in the choice. All scores are those after
the study's last rung. Known scores are of the search's own training, or the mean of it and of 1, 2, ... retrainings;
every choice of them counts, and each of the seeds that are left. Seeds that only some models have are left out.
Candidates are the study's front and the near misses that were retrained.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from nas.analysis.retraining import retraining_json, summarize_retraining
from nas.files import atomic_write
from nas.storage.store import Store
from nas.study.objectives import OBJECTIVES
from nas.study.pareto import coordinate, hypervolume, reference_point

ROWS = Path(__file__).parent / "results" / "retrained_study.json"
PLANE = [OBJECTIVES[name].objective for name in ("score", "throughput")]
KEPT = ("trial", "arch_id", "baseline", "stopped_after", "score_of_study", "scores", "score")


def rows_of(run: Path) -> dict[str, Any] | None:
    """Return what `backbone-nas retrain --json` prints, with fewer fields, and each seed's score at the last rung."""
    with Store.open(run, read_only=True) as store:
        study, retrainings, remeasurements = store.read_all()
    summary = summarize_retraining(study, retrainings, remeasurements)
    if summary is None:
        return None
    timed = {trial.number: trial.measurement for trial in study.trials if trial.measurement}
    last, plain, rows = study.info.rung_steps[-1], retraining_json(study, summary), []
    for c, row in zip(summary.candidates, plain["candidates"], strict=True):
        at_last = {str(seed): score for seed in summary.seeds if (score := c.score_at(last, seed)) is not None}
        ratios = (
            {}
            if c.measurement is None
            else {n: getattr(c.measurement, n) for n in ("ratio", "ratio_low", "ratio_high")}
        )
        if c.trial.number in timed:
            ratios["ratio_of_study"] = timed[c.trial.number].ratio
        rows.append({name: row[name] for name in KEPT} | {"at_last_rung": at_last, "change": row["change"]} | ratios)
    kept = {name: plain[name] for name in ("steps", "seeds", "scatter", "scatter_at_last_rung", "early_stopping")}
    return kept | {
        "last_rung": last,
        "timings_of_study": [[m.ratio_low, m.ratio, m.ratio_high, m.reference_img_s] for m in timed.values()],
        "correlations": plain["correlations"],
        "notes": plain["notes"],
        "candidates": rows,
    }


def realized(known: Sequence[float], true: Sequence[float], ratios: Sequence[float]) -> float:
    """Return the hypervolume by the `true` scores of the models that the `known` scores choose for each speed."""
    (lowest, slowest), (score, speed) = reference_point(PLANE), PLANE
    order = sorted(range(len(known)), key=lambda i: -ratios[i])
    ends = [*(coordinate(speed, ratios[i]) for i in order[1:]), slowest]
    volume, best = 0.0, order[0]
    for i, end in zip(order, ends, strict=True):
        best = max(best, i, key=lambda j: known[j])
        width = coordinate(speed, ratios[i]) - max(end, slowest)
        volume += max(width, 0.0) * max(coordinate(score, true[best]) - lowest, 0.0)
    return volume


def show(rows: dict[str, Any]) -> None:
    """Print the front's hypervolume by the search's scores and by others, and the realized ones by replications."""
    full = [c for c in rows["candidates"] if c["at_last_rung"] and "ratio" in c]
    seeds = [seed for seed in map(str, rows["seeds"]) if all(seed in c["at_last_rung"] for c in full)]
    models = [c for c in full if not c["baseline"] and c["stopped_after"] is None]
    front = [c for c in models if c["change"] in ("still on it", "left it")]
    searched = _volume(front, [c["score_of_study"] for c in front])
    print(f"front of {len(front)}, hypervolume after {rows['last_rung']} steps: {searched:.4f} by the search's scores")
    for seed in seeds:
        print(f"  {_volume(front, [c['at_last_rung'][seed] for c in front]):.4f} by those of seed {seed}")
    ratios = [c["ratio"] for c in models]
    print(f"realized hypervolume of {len(models)} candidates, known by the search and by retrainings:")
    for count in range(len(seeds)):
        volumes = []
        for chosen in combinations(seeds, count):
            known = [fmean([c["score_of_study"], *(c["at_last_rung"][s] for s in chosen)]) for c in models]
            for other in (s for s in seeds if s not in chosen):
                volumes.append(realized(known, [c["at_last_rung"][other] for c in models], ratios))
        print(f"  {count}: {fmean(volumes):.4f} ({min(volumes):.4f} to {max(volumes):.4f}, {len(volumes)} draws)")
    own = [realized(scores := [c["at_last_rung"][s] for c in models], scores, ratios) for s in seeds]
    print(f"  {fmean(own):.4f} ({min(own):.4f} to {max(own):.4f}) if the other seed itself were known")
    print(f"gain of the mean score from {rows['last_rung']} to {rows['steps']} steps:")
    early = [c for c in full if c["stopped_after"] is not None]
    for name, group in (("baselines", [c for c in full if c["baseline"]]), ("candidates", models), ("stopped", early)):
        gains = [c["score"] - fmean(c["at_last_rung"].values()) for c in group if c["score"] is not None]
        if gains:
            print(f"  {len(gains)} {name}: {median(gains):.3f} ({min(gains):.3f} to {max(gains):.3f})")
    for note in rows["notes"]:
        print(note)
    if "timings_of_study" in rows:
        _show_timings(rows)


def _show_timings(rows: dict[str, Any]) -> None:
    """Print how exact the search's timings are, and how far those of the retraining are from them."""
    low, ratio, high, reference = np.array(rows["timings_of_study"]).T
    half = (high - low) / 2 / ratio
    print(f"{len(half)} timings of the search: 95 % half-width {np.median(half):.1%} in the median, ", end="")
    print(f"{np.percentile(half, 90):.1%} at the 90th percentile, {(half <= 0.01).sum()} within 1 %; ", end="")
    print("the reference ran at ", end="")
    print(f"{reference.min():,.0f} to {reference.max():,.0f} images/s")
    again = [c["ratio"] / c["ratio_of_study"] - 1 for c in rows["candidates"] if "ratio" in c and "ratio_of_study" in c]
    print(f"{len(again)} timed again: changed by {np.median(np.abs(again)):.1%} in the median, ", end="")
    print(f"{np.max(np.abs(again)):.1%} at most")


def _volume(models: Sequence[dict[str, Any]], scores: Sequence[float]) -> float:
    points = zip(scores, (c["ratio"] for c in models), strict=True)
    return hypervolume([(coordinate(PLANE[0], q), coordinate(PLANE[1], r)) for q, r in points], reference_point(PLANE))


def main() -> int:
    """Print the figures of a run or of the rows; exit code 2 where nothing was retrained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN", help="without it, the saved rows")
    parser.add_argument("--rows", type=Path, default=ROWS, help="saved rows (default: those of retrained_study.json)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the rows")
    arguments = parser.parse_args()
    rows = rows_of(arguments.run) if arguments.run else json.loads(arguments.rows.read_text())
    if rows is None:
        parser.error(f"{arguments.run} has no retrainings; backbone-nas retrain makes them")
    if arguments.save:
        atomic_write(arguments.save, json.dumps(rows, indent=1) + "\n")
    show(rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
