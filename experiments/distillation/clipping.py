"""Measure the effect of gradient-norm clipping on the ranking of architectures.

    python -m experiments.distillation.clipping --archs 12
    python -m experiments.distillation.clipping --report

Random architectures of space "micro" are trained on the built-in images and teachers under the default recipe: without
clipping, with each of the limits on the gradient's norm, and without clipping under a second seed. The report gives
Kendall's tau between each setting and the first one at every rung; tau between the two seeds is the ceiling that noise
sets. A run is saved as one row of the results file; existing rows are not run again.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import kendalltau

from backbones import build
from nas.cache import open_targets
from nas.cache.targets import Targets
from nas.distill.evaluation.explained_variance import explained_variance
from nas.distill.trainer import Distiller
from nas.study.config import DistillConfig, SearchConfig
from search_space import SPACES

RESULTS = Path(__file__).parents[1] / "results" / "clipping.json"


class Setting(NamedTuple):
    """One column of the comparison; `max_grad_norm` is 0 without clipping."""

    max_grad_norm: float
    seed: int

    def __str__(self) -> str:
        limit = f"clipped at {self.max_grad_norm:g}" if self.max_grad_norm else "no clipping"
        return f"{limit}, seed {self.seed}"


def train(arch: int, setting: Setting, targets: Targets) -> dict[str, Any]:
    """Train one architecture through all rungs; return its score at each rung and the norms of its gradients."""
    config = DistillConfig(precision="fp32", summary_loss="mse", max_grad_norm=setting.max_grad_norm)
    spec = SPACES["micro"].sample(random.Random(arch))
    torch.manual_seed(setting.seed)
    distiller = Distiller(build(spec), targets, config, seed=setting.seed)
    scores, began = [], time.perf_counter()
    for steps in config.rung_steps:
        distiller.train_until(steps)
        teachers = explained_variance(distiller.averaged, targets.val, "cpu")
        scores.append(float(np.mean([heads["spatial"] for heads in teachers.values()])))
    distiller.close()
    return {
        "arch": arch,
        "arch_id": spec.arch_id,
        **setting._asdict(),
        "steps": list(config.rung_steps),
        "scores": scores,
        "grad_norms": [round(norm, 4) for norm in distiller.grad_norms],
        "seconds": round(time.perf_counter() - began, 1),
    }


def report(rows: list[dict[str, Any]]) -> None:
    """Print rank correlations and scores of each setting, for the architectures that all settings have trained."""
    by_setting: dict[Setting, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_setting.setdefault(Setting(row["max_grad_norm"], row["seed"]), {})[row["arch"]] = row
    archs = sorted(set.intersection(*(set(of_setting) for of_setting in by_setting.values())))
    first, *others = by_setting
    print(f"{len(archs)} architectures; Kendall's tau with {first!s}, mean difference of the score, at each rung")
    reference = np.array([by_setting[first][arch]["scores"] for arch in archs])
    steps = rows[0]["steps"]
    for setting in others:
        scores = np.array([by_setting[setting][arch]["scores"] for arch in archs])
        for rung, step in enumerate(steps):
            tau = kendalltau(reference[:, rung], scores[:, rung]).statistic
            gain = scores[:, rung] - reference[:, rung]
            error = gain.std(ddof=1) / len(archs) ** 0.5
            print(f"{setting!s:22} {step:>4} steps: tau {tau:.2f}, score {gain.mean():+.4f} +- {error:.4f}")
    for setting, of_setting in by_setting.items():
        early, last = (np.array([of_setting[arch]["scores"][rung] for arch in archs]) for rung in (0, -1))
        line = f"{setting!s:22} tau of {steps[0]} with {steps[-1]} steps {kendalltau(early, last).statistic:.2f}"
        if setting.max_grad_norm:
            norms = np.array([of_setting[arch]["grad_norms"] for arch in archs])
            clipped = norms > setting.max_grad_norm
            shares = [f"{clipped[:, a:b].mean():.0%}" for a, b in zip((0, *steps), steps, strict=False)]
            line += f"; steps clipped in each rung {', '.join(shares)}, in all {clipped.mean():.1%}"
        print(line)


def main() -> None:
    """Run the missing trainings, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", type=int, default=12, help="number of architectures (default: 12)")
    parser.add_argument("--limits", default="1,0.3", help="limits on the gradient's norm (default: 1,0.3)")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "backbone-nas", help="root of the cache")
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        help="file of the rows (default: results/clipping.json of the experiments)",
    )
    parser.add_argument("--report", action="store_true", help="only print the table of existing rows")
    args = parser.parse_args()
    rows = json.loads(args.results.read_text()) if args.results.exists() else []
    if not args.report:
        torch.set_num_threads(1)
        search = SearchConfig()
        targets = open_targets(
            search.data, search.teachers, root=args.cache, train_images=search.train_images,
            val_images=search.val_images, image_px=search.distill.img_size, grid=search.grid,
            seed=search.seed, storage=search.target_dtype,
        )  # fmt: skip
        limits = [Setting(float(limit), 0) for limit in args.limits.split(",")]
        settings = [Setting(0.0, 0), *limits, Setting(0.0, 1)]
        done = {(row["arch"], row["max_grad_norm"], row["seed"]) for row in rows}
        for arch in range(args.archs):
            for setting in settings:
                if (arch, *setting) not in done:
                    rows.append(train(arch, setting, targets))
                    args.results.write_text(json.dumps(rows))
                    print(f"{len(rows)} arch {arch} {setting} {rows[-1]['seconds']} s", flush=True)
    report(rows)


if __name__ == "__main__":
    main()
