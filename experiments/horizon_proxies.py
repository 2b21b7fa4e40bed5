"""Train networks of the table to the horizon by other short recipes: which orders them best for its seconds?

    python -m experiments.horizon_proxies --workers 2
    python -m experiments.horizon_proxies --report

The first `NETWORKS` networks of `experiments.horizon_table` are trained with other learning rates and schedules, and
with few images for longer. Printed are the median seconds of a training by each recipe, Kendall's tau of its rungs with
the score after 2,700 steps on 30,000 images, and the interval of that tau less the search's own after 270 steps, by a
bootstrap over the networks. Rows are saved as they come, and existing ones are not trained again.

Hardware:  two cores; 45 minutes
Expected:  see experiments/LOG.md
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from experiments.distillation.parallel import load_rows, train_missing
from experiments.horizon_findings import first_seeds
from experiments.horizon_table import FEW, MANY, ROWS, RUNGS, settings, table, train
from nas.cache import open_study_targets
from nas.machine import cache_root
from nas.study.config import SearchConfig
from search_space import ArchSpec

Row = Mapping[str, Any]
PROXIES = Path(__file__).parent / "results" / "horizon_proxies.json.gz"
NETWORKS, SEED = 24, 0
SHORT = (30, 90, 270)
RATE = SearchConfig().distill.learning_rate
RECIPES: dict[str, tuple[int, dict[str, Any]]] = {
    "half the rate": (MANY, {"rung_steps": SHORT, "learning_rate": RATE / 2}),
    "twice the rate": (MANY, {"rung_steps": SHORT, "learning_rate": 2 * RATE}),
    "twice the rate, cosine": (MANY, {"rung_steps": SHORT, "learning_rate": 2 * RATE, "schedule": "cosine"}),
    "3,000 images": (FEW, {"rung_steps": (*SHORT, 810)}),
}  # fmt: skip
DRAWS = 2000  # of the bootstrap


def train_by(recipe: str, source: str, spec: ArchSpec) -> dict[str, Any]:
    """Train a network by a recipe; return its row."""
    images, changes = RECIPES[recipe]
    return {"recipe": recipe, **train(source, spec, SEED, images, changes)}


def report(rows: Sequence[Row]) -> None:
    """Print the table, of the networks that have all recipes and the horizon."""
    known = {row["arch_id"]: row for row in first_seeds([row for row in load_rows(ROWS) if row["images"] == MANY])}
    by_recipe = {name: {row["arch_id"]: row for row in rows if row["recipe"] == name} for name in RECIPES}
    archs = sorted(set(known).intersection(*by_recipe.values()))
    if len(archs) < 3:
        return
    truth = np.array([known[arch]["scores"][-1] for arch in archs])
    kinds: list[tuple[str, Sequence[int], Mapping[str, Row]]] = [("of the search", RUNGS[:-1], known)]
    kinds += [(name, RECIPES[name][1]["rung_steps"], by_recipe[name]) for name in RECIPES]
    columns = {
        (name, steps): np.array([of[arch]["scores"][rung] for arch in archs])
        for name, rungs, of in kinds
        for rung, steps in enumerate(rungs)
    }
    best = truth >= np.quantile(truth, 2 / 3)
    today = columns["of the search", SHORT[-1]]
    rng = np.random.default_rng(0)
    draws = [rng.integers(len(archs), size=len(archs)) for _ in range(DRAWS)]
    print(f"{len(archs)} networks\n\n| recipe | steps | seconds | tau | less that of 270 steps | best third |")
    print("|---|--:|--:|--:|--:|--:|")
    for (name, steps), scores in columns.items():
        rung = next(rungs for kind, rungs, _ in kinds if kind == name).index(steps)
        seconds = np.median(
            [sum(of[arch]["seconds"][: rung + 1]) for kind, _, of in kinds if kind == name for arch in archs]
        )
        differences = [
            kendalltau(scores[d], truth[d]).statistic - kendalltau(today[d], truth[d]).statistic for d in draws
        ]
        low, high = np.percentile(differences, (2.5, 97.5))
        tau, third = (kendalltau(scores[part], truth[part]).statistic for part in (slice(None), best))
        print(f"| {name} | {steps} | {seconds:.0f} | {tau:.3f} | {low:+.3f} to {high:+.3f} | {third:.3f} |")


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time (default: 2)")
    parser.add_argument("--report", action="store_true", help="only print what the existing rows show (default: no)")
    arguments = parser.parse_args()
    rows = load_rows(PROXIES)
    if not arguments.report:
        for images in (FEW, MANY):
            open_study_targets(settings(0, images), cache_root(None))  # once, by all cores
        done = {(row["recipe"], row["arch_id"]) for row in rows}
        entries = table()[:NETWORKS]
        jobs = [(name, *entry) for entry in entries for name in RECIPES if (name, entry.spec.arch_id) not in done]
        train_missing(train_by, jobs, rows, PROXIES, arguments.workers)
    report(rows)


if __name__ == "__main__":
    main()
