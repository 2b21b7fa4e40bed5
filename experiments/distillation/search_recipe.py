"""Compare learning rates, clipping and losses of the summaries for the short trainings of a search.

    python -m experiments.distillation.search_recipe --workers 2
    python -m experiments.distillation.search_recipe --report

A search needs two things of its recipe: scores that rise fast, and an order of architectures that is that of longer
trainings. Presets, winners of earlier searches (experiments/archs) and random architectures of the space laptop are
trained on the built-in images and teachers under each of `RECIPES` and scored at the rungs of a search; under those of
`LONG` to three times the last rung. The report gives each recipe's gain of score over the first one at each rung (mean
± half its 95 % interval by Student's t over the architectures), Kendall's tau of the order at each rung with the order
after the longer trainings, and the standard deviation of one score between two seeds, common shifts left out.

Rows are saved in experiments/results/search_recipe.json; existing ones are not trained again. The scores do not depend
on what else the machine does.

Hardware:  two cores; some 45 minutes
Expected:  see experiments/LOG.md
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from backbones import build
from experiments.distillation.parallel import load_rows, train_missing
from experiments.distillation.teachers import ALL
from experiments.distillation.training import seed_weights, train
from nas.analysis.noise import measured_scatter
from nas.cache import open_study_targets
from nas.machine import cache_root
from nas.measure.counts import totals
from nas.study.config import DistillConfig, SearchConfig
from search_space import SPACES, ArchSpec, find_spec

RESULTS = Path(__file__).parents[1] / "results" / "search_recipe.json"
ARCHS = Path(__file__).parents[1] / "archs"
KNOWN = ("eradio_pico", "eradio_nano", str(ARCHS / "winner_of_laptop.json"), str(ARCHS / "best_of_laptop.json"))
RANDOM, MAX_MACS = 10, 30e6  # random architectures, and what they may cost: no more than the largest baseline
RUNGS = (30, 90, 270)
LAST = 810
MSE: dict[str, Any] = {"summary_loss": "mse"}  # of the summaries; a search has a cosine loss since 2026-11-28
CLIPPED: dict[str, Any] = {"max_grad_norm": 0.3}
RECIPES: dict[str, dict[str, Any]] = {
    "0.002": MSE | {"learning_rate": 2e-3},
    "0.004 clipped": MSE | CLIPPED | {"learning_rate": 4e-3},
    "0.008 clipped": MSE | CLIPPED | {"learning_rate": 8e-3},
    "0.004": MSE | {"learning_rate": 4e-3},
    "0.002 clipped": MSE | CLIPPED | {"learning_rate": 2e-3},
    "0.002 cosine": {"learning_rate": 2e-3, "summary_loss": "cosine"},
    "0.004 cosine": {"learning_rate": 4e-3, "summary_loss": "cosine"},
    "0.004 cosine clipped": CLIPPED | {"learning_rate": 4e-3, "summary_loss": "cosine"},
    "0.002 light": MSE | {"learning_rate": 2e-3, "weights": {f"{teacher}/summary": 0.3 for teacher in ALL}},
}
LONG = ("0.002", "0.004 clipped", "0.002 cosine", "0.004 cosine clipped")  # trained to LAST


def architectures() -> dict[str, ArchSpec]:
    """Return the architectures by name."""
    named = dict(map(find_spec, KNOWN))
    seed = 0
    while len(named) < len(KNOWN) + RANDOM:
        spec = SPACES["laptop"].sample(random.Random(seed))
        if totals(spec, DistillConfig().img_size).macs <= MAX_MACS:
            named[f"random_{seed}"] = spec
        seed += 1
    return named


def run(recipe: str, name: str, spec: ArchSpec, seed: int) -> dict[str, Any]:
    """Train one network under one recipe; return its row."""
    targets = open_study_targets(SearchConfig(), cache_root(None))
    seed_weights(seed)
    rungs = (*RUNGS, LAST) if recipe in LONG and seed == 0 else RUNGS
    config = DistillConfig(rung_steps=rungs, precision="fp32", **RECIPES[recipe])
    backbone, began = build(spec), time.perf_counter()
    scores = train(backbone, targets, config, seed).scores
    seconds = round(time.perf_counter() - began, 1)
    return {
        "recipe": recipe, "arch": name, "arch_id": spec.arch_id, "seed": seed, "scores": scores, "seconds": seconds,
    }  # fmt: skip


def report(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table, over the architectures that a recipe and the first one have in common."""
    scores = {(row["recipe"], row["seed"], row["arch"]): row["scores"] for row in rows}
    first, truths = next(iter(RECIPES)), {}
    for recipe in LONG:
        truths[recipe] = {a: s[-1] for (r, seed, a), s in scores.items() if (r, seed) == (recipe, 0)}
    lengths = (*RUNGS, LAST)
    heads = [*(f"gain at {n}" for n in lengths), *(f"tau of {n} with {LAST} of {r}" for r in LONG for n in RUNGS)]
    heads.append(f"scatter between seeds at {RUNGS[-1]}")
    print(f"| recipe | seed | architectures | {' | '.join(heads)} |\n|---|--:|--:|{'--:|' * len(heads)}")
    for recipe, seed in product(RECIPES, (0, 1)):
        archs = [a for r, s, a in scores if (r, s) == (recipe, seed) and all(a in truth for truth in truths.values())]
        if len(archs) < 3:
            continue
        own = np.array([scores[recipe, seed, arch] for arch in archs])
        gains = own - np.array([scores[first, 0, arch][: own.shape[1]] for arch in archs])
        halves = [scatter.half_width(of.tolist()) for of in gains.T if (scatter := measured_scatter([of]))]
        cells = [f"{gain:+.4f} ± {half:.4f}" for gain, half in zip(gains.mean(axis=0), halves, strict=True)]
        cells += [""] * (len(lengths) - len(cells))
        for truth in truths.values():
            last = [truth[arch] for arch in archs]
            cells += [f"{kendalltau(own[:, rung], last).statistic:.2f}" for rung in range(len(RUNGS))]
        pairs = [[scores[key][len(RUNGS) - 1] for s in (0, 1) if (key := (recipe, s, a)) in scores] for a in archs]
        paired = all(len(pair) == 2 for pair in pairs)
        cells.append(f"{np.diff(pairs, axis=1).std() / 2**0.5:.4f}" if paired else "")
        print(f"| {recipe} | {seed} | {len(archs)} | {' | '.join(cells)} |")


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time (default: 2)")
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES), help="default: all")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and image order (default: 0)")
    parser.add_argument("--report", action="store_true", help="only print the table of existing rows (default: no)")
    arguments = parser.parse_args()
    rows = load_rows(RESULTS)
    if not arguments.report:
        done = {(row["recipe"], row["arch_id"], row["seed"]) for row in rows}
        wanted = [(r, *named, arguments.seed) for r, named in product(arguments.recipes, architectures().items())]
        missing = [job for job in wanted if (job[0], job[2].arch_id, job[3]) not in done]
        train_missing(run, missing, rows, RESULTS, arguments.workers)
    report(rows)


if __name__ == "__main__":
    main()
