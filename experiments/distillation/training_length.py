"""Train vision transformers and hybrids for the steps of a search, and for ten times as many.

    python -m experiments.distillation.training_length --seeds 2 --workers 2
    python -m experiments.distillation.training_length --report

The paper (AM-RADIO, section 5) says that a plain vision transformer, trained long, is better than all its teachers.
Does one overtake the hybrids of a search when the training is longer than a search's? Presets of E-RADIO, the best
architectures of two searches (experiments/archs) and the vision transformers of `VITS` are trained under the search's
recipe on the built-in images and teachers, and scored at each of `STEPS`. The learning rate is constant after the
warm-up and the scores are those of averaged weights, so that each score is what a training of that length ends with.
`--recipe long` trains with that of `backbone-nas train` instead, whose learning rate falls to 0 at the last step;
`constant` is that one without the fall, and `shifts` moves each batch by up to one cell of the targets.

Rows are saved in experiments/results/training_length.json; existing ones are not trained again. The scores do not
depend on what else the machine does.

Hardware:  two cores; some 35 minutes a recipe
Expected:  see experiments/LOG.md
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backbones import build
from nas.cache import open_study_targets
from nas.cli import cache_root, clock
from nas.distill.evaluation.explained_variance import explained_variance
from nas.distill.evaluation.tasks import student_metrics
from nas.distill.trainer import Distiller
from nas.files import atomic_write
from nas.measure.counts import totals
from nas.study.config import DistillConfig, SearchConfig
from nas.train.training_settings import LONG_RECIPE
from search_space import ArchSpec, StageSpec, find_spec

RESULTS = Path(__file__).parents[1] / "results" / "training_length.json"
ARCHS = Path(__file__).parents[1] / "archs"
STEPS = (30, 90, 270, 810, 2700)
PRESETS = ("eradio_pico", "eradio_nano")
RECIPES: dict[str, dict[str, Any]] = {
    "search": {},
    "long": LONG_RECIPE,
    "constant": LONG_RECIPE | {"schedule": "constant"},
    "shifts": LONG_RECIPE | {"max_shift": 1},
}


def vit(stem: str, depth: int, width: int, heads: int, **options: Any) -> ArchSpec:
    """Return a vision transformer whose tokens know their places by a depthwise convolution."""
    stage = StageSpec("vit", depth, width, heads=heads, expansion=4.0, positions="conditional", **options)
    return ArchSpec((stage,), stem=stem)


# At 64 px: 16 tokens with stems of stride 16, 256 with "patch".
VITS = {
    "vit_128": vit("patch16", 8, 128, 4),
    "vit_256": vit("patch16", 8, 256, 8),
    "vit_conv_128": vit("conv16", 8, 128, 4),
    "windowed_vit_64": vit("patch", 4, 64, 4, window=8, global_every=2, registers=4),
}


def architectures() -> dict[str, ArchSpec]:
    """Return all architectures by name: the hybrids first."""
    files = [str(path) for path in sorted(ARCHS.glob("*.json"))]
    return dict(map(find_spec, (*PRESETS, *files))) | VITS


def run(recipe: str, name: str, spec: ArchSpec, seed: int) -> dict[str, Any]:
    """Train one network to the last of `STEPS`; return its row."""
    torch.set_num_threads(1)
    config = DistillConfig(rung_steps=STEPS, precision="fp32", **RECIPES[recipe])
    targets = open_study_targets(SearchConfig(), cache_root(None))
    torch.manual_seed(seed)
    distiller = Distiller(build(spec), targets, config, seed=seed)
    began, scores, teachers = time.perf_counter(), [], []
    for step in STEPS:
        distiller.train_until(step)
        explained = explained_variance(distiller.averaged, targets.val, "cpu")
        teachers.append({teacher: round(heads["spatial"], 5) for teacher, heads in explained.items()})
        scores.append(round(float(np.mean(list(teachers[-1].values()))), 5))
    distiller.close()
    counts = totals(spec, config.img_size)
    metrics = {key: round(value, 5) for key, value in student_metrics(distiller.averaged, targets, "cpu").items()}
    return {
        "recipe": recipe, "arch": name, "arch_id": spec.arch_id, "seed": seed,
        "macs": counts.macs, "params": counts.params,
        "scores": scores, "teachers": teachers, "metrics": metrics, "seconds": round(time.perf_counter() - began, 1),
        "spec": spec.to_dict(),
    }  # fmt: skip


def report(rows: list[dict[str, Any]]) -> None:
    """Print the score after each number of steps, mean over seeds, with the largest distance of a seed from it."""
    for recipe in RECIPES:
        if any(row["recipe"] == recipe for row in rows):
            print(f"\nrecipe {recipe}")
            _print_table([row for row in rows if row["recipe"] == recipe])


def _print_table(rows: list[dict[str, Any]]) -> None:
    print(f"| architecture | MMACs | M params | seeds | {' | '.join(f'{steps:,} steps' for steps in STEPS)} |")
    print(f"|---|--:|--:|--:|{'--:|' * len(STEPS)}")
    for name in architectures():
        of = [row for row in rows if row["arch"] == name]
        if not of:
            continue
        scores = np.array([row["scores"] for row in of])
        mean, spread = scores.mean(axis=0), np.abs(scores - scores.mean(axis=0)).max(axis=0)
        cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, spread, strict=True)]
        sizes = f"{of[0]['macs'] / 1e6:.1f} | {of[0]['params'] / 1e6:.2f} | {len(of)}"
        print(f"| {name} | {sizes} | {' | '.join(cells)} |")


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each architecture (default: 2)")
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time (default: 2)")
    parser.add_argument("--recipe", choices=RECIPES, default="search", help="recipe (default: search)")
    parser.add_argument("--archs", help="comma list of names, as the table has them (default: all)")
    parser.add_argument("--report", action="store_true", help="only print the table of existing rows (default: no)")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    if not arguments.report:
        done = {(row["recipe"], row["arch_id"], row["seed"]) for row in rows}
        chosen = {name: spec for name, spec in architectures().items() if name in (arguments.archs or name).split(",")}
        wanted = [(arguments.recipe, *pair, seed) for seed in range(arguments.seeds) for pair in chosen.items()]
        missing = [job for job in wanted if (job[0], job[2].arch_id, job[3]) not in done]
        began = time.monotonic()
        with ProcessPoolExecutor(arguments.workers) as pool:
            trainings = [pool.submit(run, *job) for job in missing]
            for ended, training in enumerate(as_completed(trainings), start=1):
                rows.append(row := training.result())
                atomic_write(RESULTS, "[\n" + ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows) + "\n]\n")
                left = clock((time.monotonic() - began) / ended * (len(missing) - ended))
                print(f"{ended}/{len(missing)} {row['arch']} seed {row['seed']} {row['scores']} ETA {left}", flush=True)
    report(rows)


if __name__ == "__main__":
    main()
