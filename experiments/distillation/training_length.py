"""Train vision transformers and hybrids for the steps of a search, and for ten times as many.

    python -m experiments.distillation.training_length --recipe search-cosine --seeds 2 --workers 2
    python -m experiments.distillation.training_length --time      (on an otherwise idle machine)
    python -m experiments.distillation.training_length --report

The paper (AM-RADIO, section 5) says that a plain vision transformer, trained long, is better than all its teachers.
Does one overtake the hybrids of a search when the training is longer than a search's? Presets of E-RADIO, the best
architectures of two searches and what a third recommended (experiments/archs), and the vision transformers of `VITS`
are trained under the search's recipe on the built-in images and teachers, and scored at each of `STEPS`. The learning
rate is constant after the warm-up and the scores are those of averaged weights, so that each score is what a training
of that length ends with.
`search-cosine` is a search's recipe of today, and `train` that of `backbone-nas train`; `shifts` also moves each batch
by up to one cell of the targets. All others have MSE as the loss of the summaries, the default until 2026-11-28:
`search`, and recipes of `backbone-nas train`. With `long` the learning rate falls to 0 along a cosine, with `constant`
it does not fall, with `wsd` it falls in the last fifth of the steps, and `-2x` and `-4x` have twice and four times the
rate. `warm` trains 270 steps as a search does, and then the other 2,430 with the recipe `long` from the averaged
weights and the heads. `fresh` is a search's recipe with 30,000 images, which hardly repeat; models of the sample report
are trained by it, too. `--steps 8100` trains three times as long as the default.

Where ../shared/data has CIFAR-10 and CamVid, a row also has the accuracy of kNN and of a linear probe on 2,000 images
of the one, at 64 px, and the mIoU of a linear probe on the other, at 96 px: no student sees these images in training.

Rows are saved in experiments/results/training_length.json; existing ones are not trained again. The scores do not
depend on what else the machine does.

Hardware:  two cores; some 35 minutes a recipe
Expected:  see experiments/LOG.md
"""

from __future__ import annotations

import argparse
import time
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from backbones import build
from experiments.distillation.parallel import load_rows, train_missing
from experiments.distillation.teachers import DATA
from experiments.distillation.timed import time_missing
from experiments.distillation.training import LABELS, cifar_targets, metrics_of, seed_weights, train
from experiments.horizon_table import named
from nas.cache import open_study_targets
from nas.distill.folded_heads import fold
from nas.machine import cache_root
from nas.measure.counts import totals
from nas.study.config import DistillConfig, SearchConfig
from nas.train.training_settings import LONG_RECIPE
from search_space import ArchSpec, StageSpec, find_spec

RESULTS = Path(__file__).parents[1] / "results" / "training_length.json"
ARCHS = Path(__file__).parents[1] / "archs"
STEPS = (30, 90, 270, 810, 2700, 8100)  # at which a training is scored; the last two are lengths
LENGTHS = STEPS[-2:]
PRESETS = ("eradio_pico", "eradio_nano")
REFERENCE = "eradio_nano"  # of the timings
MSE = {"summary_loss": "mse"}  # where a recipe says nothing else: the default until 2026-11-28
RECIPES: dict[str, dict[str, Any]] = {
    "search": {},
    "search-cosine": {"summary_loss": "cosine"},
    **{
        name + (f"-{times}x" if times > 1 else ""): LONG_RECIPE
        | {"schedule": schedule, "learning_rate": times * DistillConfig().learning_rate}
        for times in (1, 2, 4)
        for name, schedule in {"long": "cosine", "constant": "constant", "wsd": "wsd"}.items()
    },
    "train": LONG_RECIPE | {"summary_loss": "cosine"},
    "shifts": LONG_RECIPE | {"summary_loss": "cosine", "max_shift": 1},
    "fresh": {"summary_loss": "cosine", "precision": "bf16"},
}
FRESH = 30_000  # images of the recipe of that name
WARM, SEARCHED = "warm", 270  # steps of the search before a warm start


def vit(stem: str, depth: int, width: int, heads: int, **options: Any) -> ArchSpec:
    """Return a vision transformer whose positions a depthwise convolution encodes."""
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
    sampled = {entry.source: entry.spec for entry in named() if entry.source.startswith("sample")}
    return dict(map(find_spec, (*PRESETS, *files))) | VITS | sampled


def run(recipe: str, name: str, spec: ArchSpec, seed: int, length: int) -> dict[str, Any]:
    """Train one network for one of `LENGTHS`; return its row."""
    config = SearchConfig()
    images = FRESH if recipe == "fresh" else config.train_images
    targets = open_study_targets(replace(config, train_images=images), cache_root(None))
    seed_weights(seed)
    began, scores, teachers = time.perf_counter(), [], []
    backbone, adaptors = build(spec), None
    for part, before, steps in _parts(recipe, length):
        rungs = tuple(step - before for step in steps)
        distill = DistillConfig(rung_steps=rungs, **{"precision": "fp32"} | MSE | RECIPES[part])
        trained = train(backbone, targets, distill, seed, adaptors)
        scores += trained.scores
        teachers += trained.teachers
        backbone = deepcopy(trained.student.backbone).requires_grad_(True)
        adaptors = fold(trained.student.heads, targets.teachers, backbone.spatial_stride)
    counts = totals(spec, config.distill.img_size)
    return {
        "recipe": recipe, "arch": name, "arch_id": spec.arch_id, "seed": seed, "steps": length,
        "macs": counts.macs, "params": counts.params, "scores": scores, "teachers": teachers,
        "metrics": metrics_of(trained.student, targets), "seconds": round(time.perf_counter() - began, 1),
        "spec": spec.to_dict(),
    }  # fmt: skip


def _parts(recipe: str, length: int) -> list[tuple[str, int, tuple[int, ...]]]:
    """Return the recipe of each part of a training, the steps before it, and the steps at which it is scored."""
    steps = STEPS[: STEPS.index(length) + 1]
    if recipe != WARM:
        return [(recipe, 0, steps)]
    split = STEPS.index(SEARCHED) + 1
    return [("search", 0, steps[:split]), ("long", SEARCHED, steps[split:])]


def report(rows: list[dict[str, Any]]) -> None:
    """Print the score after each number of steps, mean over seeds, with the largest distance of a seed from it."""
    timings = [row for row in rows if "ratio" in row]
    rows = [row for row in rows if "ratio" not in row]
    for length, recipe in product(LENGTHS, (*RECIPES, WARM)):
        if of := [row for row in rows if (row["recipe"], row["steps"]) == (recipe, length)]:
            print(f"\nrecipe {recipe}, {length:,} steps")
            _print_table(of, length)
    print(f"\nthroughput at 64 px, batch 16, in multiples of that of {REFERENCE}")
    _print_timings(timings)


def _print_timings(rows: list[dict[str, Any]]) -> None:
    """Print each network's throughput in multiples of `REFERENCE`'s, with the 95 % interval."""
    for row in rows:
        print("{}: {:.2f}x ({:.2f} to {:.2f}) {}".format(row["arch"], *row["ratio"], row["verdict"]))


def _print_table(rows: list[dict[str, Any]], length: int) -> None:
    labels = [name for name in LABELS if all(name in row["metrics"] for row in rows)]
    heads = [*(f"{steps:,} steps" for steps in STEPS if steps <= length), *(LABELS[name] for name in labels)]
    print(f"| architecture | MMACs | M params | seeds | {' | '.join(heads)} |")
    print(f"|---|--:|--:|--:|{'--:|' * len(heads)}")
    for name in architectures():
        of = [row for row in rows if row["arch"] == name]
        if not of:
            continue
        scores = np.array([row["scores"] + [row["metrics"][name] for name in labels] for row in of])
        mean, spread = scores.mean(axis=0), np.abs(scores - scores.mean(axis=0)).max(axis=0)
        cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, spread, strict=True)]
        sizes = f"{of[0]['macs'] / 1e6:.1f} | {of[0]['params'] / 1e6:.2f} | {len(of)}"
        print(f"| {name} | {sizes} | {' | '.join(cells)} |")


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each architecture (default: 2)")
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time (default: 2)")
    parser.add_argument("--recipe", choices=(*RECIPES, WARM), default="search", help="recipe (default: search)")
    parser.add_argument("--steps", type=int, choices=LENGTHS, default=LENGTHS[0], help="training steps (default: 2700)")
    parser.add_argument("--archs", help="comma list of names, as the table has them (default: all)")
    parser.add_argument("--time", action="store_true", help="time networks, on an idle machine (default: train them)")
    parser.add_argument("--report", action="store_true", help="only print the table of existing rows (default: no)")
    arguments = parser.parse_args()
    rows = load_rows(RESULTS)
    if arguments.time:
        networks = {name: partial(build, spec) for name, spec in architectures().items()}
        time_missing(networks, REFERENCE, SearchConfig().distill.img_size, rows, RESULTS)
    elif not arguments.report:
        done = {(row["recipe"], row["arch_id"], row["seed"], row["steps"]) for row in rows if "recipe" in row}
        chosen = {name: spec for name, spec in architectures().items() if name in (arguments.archs or name).split(",")}
        jobs = product((arguments.recipe,), chosen.items(), range(arguments.seeds), (arguments.steps,))
        wanted = [(recipe, *named, seed, length) for recipe, named, seed, length in jobs]
        missing = [job for job in wanted if (job[0], job[2].arch_id, *job[3:]) not in done]
        if DATA.exists() and missing:
            cifar_targets()  # once, for all processes
        train_missing(run, missing, rows, RESULTS, arguments.workers)
    report(rows)


if __name__ == "__main__":
    main()
