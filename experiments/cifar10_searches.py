"""Searches of the default space on images of CIFAR-10, and fronts that are trained ten times longer.

    python -m experiments.cifar10_searches commands RUNS   (prints the commands of the searches and retrainings)
    python -m experiments.cifar10_searches rows RUNS       (saves what they measured)
    python -m experiments.cifar10_searches                 (prints the findings of the saved rows)

The searches have the defaults, 200 candidates and 64 px, but 3,000 natural images to train on and 600 held out, where
the default draws its images. The fronts, the candidates just below that of the first search and the three baselines are
trained again to ten times the last rung, with new seeds: three for seeds 0, 3 and 4, one for seed 1.
Rows are saved in experiments/results/cifar10_searches.json: of each search its course, and each candidate and baseline
that reached the last rung; of a retraining what `experiments.realized_front` keeps, by the seed of the search. Saved
searches whose run folders are gone stay.

Needs:     ../shared/data for the images
Hardware:  two cores; some 20 minutes a search, 35 for each seed of the retraining
Expected:  see experiments/LOG.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from scipy.stats import kendalltau

from experiments.builtin_study import BUDGET, SHOWN, Course
from experiments.distillation.teachers import DATA
from experiments.full_space import name_of
from experiments.hybrid_findings import has_attention
from experiments.realized_front import PLANE, rows_of
from nas.analysis.noise import scatter_by_kind
from nas.files import atomic_write
from nas.storage.store import Store, read_study
from nas.study.convergence import gain_over_noise
from nas.study.pareto import coordinate, front, hypervolume, reference_point
from nas.study.records import TrialState

ROWS = Path(__file__).parent / "results" / "cifar10_searches.json"
SEEDS = (0, 1, 2, 3, 4)
TRAIN_STEPS = 2700
RETRAINED = {0: (3, 4), 1: (1, 0), 3: (3, 0), 4: (3, 0)}  # by a search's seed: seeds of retraining, near misses
URI = f"webdataset:{DATA}/cifar10/train-*.tar::{DATA}/cifar10/val-*.tar"
SHOWN_METRICS = {"knn": "kNN", "probe": "linear probe"}
Row = Mapping[str, Any]


def commands(runs: Path) -> list[str]:
    """Return the commands, in their order."""
    images = f"--data '{URI}' --train-images 3000 --val-images 600"
    searches = [f"backbone-nas search {images} --seed {seed} --run {runs}/s{seed}" for seed in SEEDS]
    longer = f"--baselines --train-steps {TRAIN_STEPS}"
    again = [
        f"backbone-nas retrain {runs}/s{seed} {longer} --seeds {count} --near-misses {near}"
        for seed, (count, near) in RETRAINED.items()
    ]
    return [*searches, *again]


def search_row(folder: Path) -> dict[str, Any]:
    """Return a search's course after some numbers of candidates, and its models that reached the last rung."""
    study = read_study(folder)
    course = Course.of("cifar10", study)
    models: list[dict[str, Any]] = [
        {
            "number": trial.number, "arch_id": trial.arch_id, "baseline": trial.baseline, "params": trial.params,
            "macs": trial.macs, "score": round(trial.rungs[-1].score, 5),
            "metrics": {name: round(value, 4) for name, value in trial.rungs[-1].metrics.items()},
            "ratio": [round(value, 4) for value in (clock.ratio, clock.ratio_low, clock.ratio_high)],
            "verdict": clock.verdict, "attention": has_attention({"spec": trial.spec}),
        }
        for trial in study.trials
        if trial.state is TrialState.COMPLETE and (clock := trial.measurement)
    ]  # fmt: skip
    candidates = [model for model in models if model["baseline"] is None]
    gain = gain_over_noise({trial.number: trial for trial in study.trials})
    best = {candidates[i]["number"] for i in front([(m["score"], m["ratio"][0]) for m in candidates])}
    specs: dict[int, Any] = {trial.number: trial.spec for trial in study.trials}
    return {
        "seed": course.seed, "candidates": len(course.steps), "steps": course.steps[-1],
        "hypervolume": {str(n): course.hypervolume[n - 1] for n in SHOWN if n <= len(course.steps)},
        "contended": sum(t.measurement.verdict == "contended" for t in study.trials if t.measurement),
        "timed": sum(t.measurement is not None for t in study.trials),
        "expected_gain": None if gain is None else round(gain, 2),
        "models": [model | ({"spec": specs[model["number"]]} if model["number"] in best else {}) for model in models],
    }  # fmt: skip


def retrained_rows(folder: Path) -> dict[str, Any] | None:
    """Return the rows of a retraining, with the metrics on labels at its end, in the mean over the seeds."""
    rows = rows_of(folder)
    if rows is None:
        return None
    with Store.open(folder, read_only=True) as store:
        trainings = [t for t in store.read_all()[1] if t.rungs and t.rungs[-1].steps == rows["steps"]]
    for row in rows["candidates"]:
        found = [t.rungs[-1].metrics for t in trainings if t.number == row["trial"]]
        if found:
            row["metrics"] = {name: round(fmean(each[name] for each in found), 4) for name in SHOWN_METRICS}
    return rows


def updated(rows: Row, runs: Path) -> dict[str, Any]:
    """Return saved rows with those of the finished searches in `runs` in place of earlier ones of the same seed."""
    searches = {search["seed"]: search for search in rows["searches"]}
    retrained = dict(rows["retrained"])
    for seed in SEEDS:
        folder = runs / f"s{seed}"
        if folder.is_dir() and (row := search_row(folder))["candidates"] == BUDGET:
            searches[seed] = row
            retrained.pop(str(seed), None)
            if again := retrained_rows(folder):
                retrained[str(seed)] = again
    return {"searches": [searches[seed] for seed in sorted(searches)], "retrained": dict(sorted(retrained.items()))}


def fastest_as_good(models: Sequence[Row], baseline: str) -> tuple[Row | None, float]:
    """Return the fastest candidate that scores at least as high as a baseline, and how many times as fast it is."""
    other = next(model for model in models if model["baseline"] == baseline)
    equal = [m for m in models if m["baseline"] is None and m["score"] >= other["score"]]
    best = max(equal, key=lambda model: model["ratio"][0], default=None)
    return best, (best["ratio"][0] / other["ratio"][0] if best else 0.0)


def search_cells(search: Row) -> list[str]:
    """Return the cells of a search in the table of searches, after its seed."""
    best = [model for model in search["models"] if "spec" in model]
    _, times = fastest_as_good(search["models"], "eradio_nano")
    volumes = [search["hypervolume"].get(str(n), float("nan")) for n in SHOWN]
    counts = [len(best), sum(len(m["spec"]["stages"]) == 4 for m in best), sum(m["attention"] for m in best)]
    speed = f"{times:.2f}x"
    timed = f"{search['contended']} of {search['timed']}"
    return [*(f"{volume:.2f}" for volume in volumes), *map(str, counts), speed, f"{search['steps']:,}", timed]


def pooled_front(searches: Sequence[Row]) -> tuple[list[tuple[int, Row]], float]:
    """Return the front of all searches together, each model with the seed of its search, and its hypervolume."""
    models = [(s["seed"], m) for s in searches for m in s["models"] if m["baseline"] is None]
    points = [(coordinate(PLANE[0], m["score"]), coordinate(PLANE[1], m["ratio"][0])) for _, m in models]
    return [models[i] for i in front(points)], hypervolume(points, reference_point(PLANE))


def report(rows: Row) -> None:
    """Print what the searches and the retraining found."""
    heads = (*(f"after {n}" for n in SHOWN), "front", "four stages", "attention", "at eradio_nano's score", "steps")
    print(f"| search | {' | '.join(heads)} | contended timings |")
    print(f"|---|{'--:|' * (len(heads) + 1)}")
    for search in rows["searches"]:
        print(f"| seed {search['seed']} | {' | '.join(search_cells(search))} |")
    pooled, volume = pooled_front(rows["searches"])
    seeds = [seed for seed, _ in pooled]
    counts = ", ".join(f"{seeds.count(search['seed'])} of seed {search['seed']}" for search in rows["searches"])
    print(f"\nfront of all searches: {len(pooled)} models ({counts}), hypervolume {volume:.2f}")
    for search in rows["searches"]:
        _report_search(search)
    for seed, retrained in rows["retrained"].items():
        _report_retrained(seed, retrained)


def _report_search(search: Row) -> None:
    models = search["models"]
    print(f"\nseed {search['seed']}:")
    for baseline in (model["baseline"] for model in models if model["baseline"]):
        model, times = fastest_as_good(models, baseline)
        what = "no candidate" if model is None else f"{name_of(model)}, {times:.2f} times as fast ({_labels(model)})"
        own = next(m for m in models if m["baseline"] == baseline)
        print(f"  scores as high as {baseline} ({_labels(own)}): {what}")
    top = max((m for m in models if m["baseline"] is None), key=lambda model: float(model["score"]))
    if (gain := search["expected_gain"]) is not None:
        print(f"  expected gain of the next candidate, in multiples of the noise: {gain:.1f}")
    print(f"  highest score: {name_of(top)}, {_labels(top)}, {top['ratio'][0]:.2f}x the reference")
    best = sorted((m for m in models if "spec" in m), key=lambda model: -model["score"])
    print("  | network | stem | blocks: kind, depth x width | MMACs | M params | score | throughput |")
    print("  |---|---|---|--:|--:|--:|--:|")
    for model in best:
        blocks = ", ".join("{block} {depth} x {width}".format(**stage) for stage in model["spec"]["stages"])
        sizes = f"{model['macs'] / 1e6:.1f} | {model['params'] / 1e6:.2f}"
        speed = "{:.2f}x ({:.2f} to {:.2f})".format(*model["ratio"])
        stem = model["spec"].get("stem", "conv")
        print(f"  | {name_of(model)} | {stem} | {blocks} | {sizes} | {model['score']:.3f} | {speed} |")
    for name, words in SHOWN_METRICS.items():
        tau = kendalltau([m["score"] for m in models], [m["metrics"][name] for m in models]).statistic
        print(f"  Kendall's tau of score and {words} on {len(models)} models: {tau:.2f}")


def _labels(model: Row) -> str:
    metrics = "".join(f", {words} {model['metrics'][name]:.3f}" for name, words in SHOWN_METRICS.items())
    return f"score {model['score']:.3f}{metrics}"


def _report_retrained(searched: str, retrained: Row) -> None:
    seeds = ", ".join(map(str, retrained["seeds"]))
    print(f"\nseed {searched} retrained to {retrained['steps']:,} steps with the seeds {seeds}:")
    for note in retrained["notes"]:
        print(f"  {note}")
    for found in retrained["correlations"]:
        print(f"  tau of {found['between']}: {found['tau']:.2f} ({found['low']:.2f} to {found['high']:.2f})")
    done = [c for c in retrained["candidates"] if c["score"] is not None and "ratio" in c]
    scatter = scatter_by_kind(([*c["scores"].values()], c["baseline"]) for c in done)
    changes = [c["change"] for c in done if c["baseline"] is None]
    print(f"  {len(done)} models: {', '.join(f'{changes.count(word)} {word}' for word in sorted(set(changes)))}")
    print(f"| network | in the search | retrained | {' | '.join(SHOWN_METRICS.values())} | throughput | |")
    print(f"|---|{'--:|' * (3 + len(SHOWN_METRICS))}---|")
    for c in sorted(done, key=lambda c: -c["score"]):
        name = c["baseline"] or f"trial {c['trial']}"
        own = None if scatter is None else scatter.of_kind(c["baseline"]).half_width([*c["scores"].values()])
        half = "" if own is None else f" ± {own:.3f}"
        labels = [f"{c['metrics'][metric]:.3f}" for metric in SHOWN_METRICS]
        cells = [f"{c['score_of_study']:.3f}", f"{c['score']:.3f}{half}", *labels, f"{c['ratio']:.2f}x", c["change"]]
        print(f"| {name} | {' | '.join(cells)} |")
    models = [c | {"ratio": [c["ratio"]]} for c in done]
    for baseline in (c["baseline"] for c in done if c["baseline"]):
        best, times = fastest_as_good(models, baseline)
        found = best and f"trial {best['trial']} ({best['score']:.3f}), {times:.2f} times as fast"
        print(f"  scores as high as {baseline}: {found or 'no candidate'}")
    gains = {
        kind: [c["score"] - fmean(c["at_last_rung"].values()) for c in done if bool(c["baseline"]) is kind]
        for kind in (True, False)
    }
    print("  gain by longer training, median: " + ", ".join(
        f"{median(values):.3f} of {'baselines' if kind else 'candidates'}" for kind, values in gains.items() if values
    ))  # fmt: skip


def main() -> int:
    """Print the commands, save the rows or print the findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["commands", "rows", "report"], default="report")
    parser.add_argument("runs", type=Path, nargs="?", metavar="RUNS", help="folder of the searches")
    arguments = parser.parse_args()
    if arguments.what != "report" and arguments.runs is None:
        parser.error("RUNS: name a folder")
    if arguments.what == "commands":
        print("\n".join(commands(arguments.runs)))
        return 0
    if arguments.what == "rows":
        atomic_write(
            ROWS, json.dumps(updated(json.loads(ROWS.read_text()), arguments.runs), separators=(",", ":")) + "\n"
        )
    report(json.loads(ROWS.read_text()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
