"""Compare students of several teachers with students of one, on CIFAR-10 classes and CamVid segmentation.

    python -m experiments.distillation.teachers --seeds 3 --workers 2
    python -m experiments.distillation.teachers --report

Distills a small E-RADIO from the built-in teachers on unlabeled CIFAR-10 (WebDataset shards of ../shared/data) under
every recipe of `RECIPES` and prints the probes of each. Rows are saved in experiments/results; existing ones are not
run again. `--report` prints the published rows: each metric's mean and standard deviation over the seeds, and its mean
difference from a student of EfficientNet-Lite0 alone with the same seed, with half the 95 % interval by Student's t.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata

from backbones import build
from nas.analysis.noise import measured_scatter
from nas.cache import open_targets
from nas.data import open_images
from nas.distill.evaluation.explained_variance import explained_variance
from nas.distill.evaluation.probes import SegmentationProbe
from nas.distill.evaluation.tasks import student_metrics, teacher_metrics
from nas.distill.heads import normalize
from nas.distill.trainer import Distiller
from nas.files import atomic_write
from nas.study.config import DistillConfig
from search_space import ArchSpec, StageSpec

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "teachers.json"
PUBLISHED = tuple(
    HERE.parent / "results" / f"teachers_{name}.json"
    for name in ("c6e0841", "rivals", "floors", "capacity", "b626d66", "long")
)
DATA = HERE.parents[2] / "shared" / "data"
SCENE_PX = 96
SCENE_CLASSES = 11
ALL = ("lite0", "hed", "xfeat")
MSE = {"summary_loss": "mse"}  # where a recipe says nothing else: the default of a search until 2026-11-28
TITLES = {"lite0": "Lite0", "hed": "HED", "xfeat": "XFeat"}
IMAGES = ("images", "labels", "masks")  # what a split has of an image
WITHOUT = 1e-6  # weight of a head that the student does not learn

AM_RADIO = {"summary_loss": "cosine", "spatial_loss": "hybrid", "standardization": "raw"}

COSINE = {"summary_loss": "cosine"}  # the default of a search


@dataclass(frozen=True)
class Recipe:
    """How a student is trained.

    Attributes:
        teachers: Names of its teachers.
        settings: Fields of `DistillConfig` that are not the defaults of 2026-11-25.
        images: Training images, the first ones of the data; None: all.
        mixed: Whether each image has the targets of another one, drawn once.
        trained: Whether it is trained at all.
    """

    teachers: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    images: int | None = None
    mixed: bool = False
    trained: bool = True


RECIPES: dict[str, Recipe] = {
    "lite0 alone": Recipe(("lite0",)),
    "lite0 alone, summary cosine": Recipe(("lite0",), COSINE),
    "lite0 alone, AM-RADIO": Recipe(("lite0",), AM_RADIO),
    "hed alone": Recipe(("hed",)),
    "hed alone, summary cosine": Recipe(("hed",), COSINE),
    "xfeat alone": Recipe(("xfeat",)),
    "xfeat alone, summary cosine": Recipe(("xfeat",), COSINE),
    "lite0 and hed": Recipe(("lite0", "hed")),
    "lite0 and xfeat": Recipe(("lite0", "xfeat")),
    "all, fixed": Recipe(ALL),
    "all, summaries alone": Recipe(ALL, {"weights": {f"{teacher}/spatial": WITHOUT for teacher in ALL}}),
    "all, summaries x0.3": Recipe(ALL, {"weights": {f"{teacher}/summary": 0.3 for teacher in ALL}}),
    "all, summaries x0.3, lite0 x2": Recipe(
        ALL,
        {"weights": {f"{teacher}/summary": 0.3 for teacher in ALL} | {"lite0/summary": 0.6, "lite0/spatial": 2.0}},
    ),
    "all, maps alone": Recipe(ALL, {"weights": {f"{teacher}/summary": WITHOUT for teacher in ALL}}),
    "all, lite0 x3": Recipe(ALL, {"weights": {"lite0": 3.0}}),
    "all, uncertainty": Recipe(ALL, {"balance": "uncertainty"}),
    "all, adaloss": Recipe(ALL, {"balance": "adaloss"}),
    "all, drop": Recipe(ALL, {"balance": "drop"}),
    "all, summary cosine": Recipe(ALL, COSINE),
    "all, summary angle": Recipe(ALL, {"summary_loss": "angle"}),
    "all, spatial hybrid": Recipe(ALL, {"spatial_loss": "hybrid"}),
    "all, AM-RADIO": Recipe(ALL, AM_RADIO),
    "all, summary cosine, lite0 x2": Recipe(ALL, {"summary_loss": "cosine", "weights": {"lite0": 2.0}}),
    "all, global": Recipe(ALL, {"standardization": "global"}),
    "all, raw": Recipe(ALL, {"standardization": "raw"}),
    "untrained": Recipe(ALL, COSINE, trained=False),
    "all, targets of other images": Recipe(ALL, COSINE, mixed=True),
    **{f"all, summary cosine, {count:,} images": Recipe(ALL, COSINE, images=count) for count in (100, 300, 1000, 3000)},
}


def student(width: int) -> ArchSpec:
    """Return a small E-RADIO for 32 px: C2f stages at strides 4 and 8, windowed attention at 16, fused at 8."""
    attention = {"heads": 8, "expansion": 4.0, "pre_conv": "depthwise", "window": 2, "cpb_hidden": 64}
    stages = (
        StageSpec("c2f", 1, width, expansion=0.5),
        StageSpec("c2f", 2, 2 * width, expansion=0.5),
        StageSpec("window", 2, 4 * width, **attention),  # type: ignore[arg-type]
    )
    return ArchSpec(stages=stages, stem_width=width // 2, neck="stage2", neck_dim=256)


def only(targets: Any, names: tuple[str, ...]) -> Any:
    """Targets without the other teachers."""

    def cut(split: Any) -> Any:
        summary = {n: split.summary[n] for n in names if n in split.summary}
        return replace(split, summary=summary, spatial={n: split.spatial[n] for n in names})

    teachers = {name: targets.teachers[name] for name in names}
    return replace(targets, train=cut(targets.train), val=cut(targets.val), teachers=teachers)


def taught(targets: Any, recipe: Recipe) -> Any:
    """Targets that a student of the recipe trains on: its teachers', of its images, or of others where mixed."""
    targets = only(targets, recipe.teachers)
    train = targets.train
    images = np.arange(len(train))[: recipe.images]
    owners = np.random.default_rng(0).permutation(images) if recipe.mixed else images
    heads = {
        kind: {name: np.asarray(array)[owners] for name, array in getattr(train, kind).items()}
        for kind in ("summary", "spatial")
    }
    part = {kind: None if (of := getattr(train, kind)) is None else np.asarray(of)[images] for kind in IMAGES}
    return replace(targets, train=replace(train, **part, **heads))


def run(recipe: str, seed: int, width: int, steps: int, batch: int, cache: Path) -> dict[str, Any]:
    """One student: its probes."""
    torch.set_num_threads(1)
    targets = cifar(cache)
    chosen = RECIPES[recipe]
    config = DistillConfig(
        img_size=32, precision="fp32", batch_size=batch, rung_steps=(steps,), **MSE | chosen.settings
    )
    torch.manual_seed(seed)
    distiller = Distiller(build(student(width)), taught(targets, chosen), config, seed=seed)
    began = time.perf_counter()
    if chosen.trained:
        distiller.train_until(steps)
    seconds = time.perf_counter() - began
    distiller.close()
    net = distiller.averaged
    metrics = student_metrics(net, targets, "cpu", images=8000)
    metrics["miou"] = scenes_miou(net, cache)
    explained = explained_variance(net, only(targets, chosen.teachers).val, "cpu", distiller.angular_transforms)
    return {
        "recipe": recipe, "seed": seed, "width": width, "steps": steps, "batch": batch, "seconds": round(seconds, 1),
        "metrics": metrics, "explained": explained, "config": asdict(config),
    }  # fmt: skip


def scenes_miou(net: Any, cache: Path) -> float:
    """Return the mIoU of linear segmentation of CamVid on frozen features at 96 px: mean IoU over its 11 classes."""
    uri = f"webdataset:{DATA}/camvid/train-*.tar::{DATA}/camvid/val-*.tar#ignore=11"
    probe = SegmentationProbe(SCENE_CLASSES)
    for split, count, use in (("train", 200, probe.fit), ("val", 100, probe.score)):
        images = open_images(uri, split, count, 0, SCENE_PX, cache)
        samples = [images.read(i) for i in range(len(images))]
        masks = torch.from_numpy(np.stack([s.mask for s in samples])).long()
        pixels = torch.from_numpy(np.stack([s.image for s in samples])).permute(0, 3, 1, 2)
        for rows, part in zip(masks.split(20), pixels.split(20), strict=True):
            with torch.inference_mode():
                use(net.backbone.encode(normalize(part)).spatial.float(), rows)
    return probe.miou


def cifar(cache: Path) -> Any:
    """Return the teachers' targets on CIFAR-10."""
    uri = f"webdataset:{DATA}/cifar10/train-*.tar::{DATA}/cifar10/val-*.tar"
    return open_targets(uri, "builtin", root=cache, train_images=10_000, val_images=2000, image_px=32, grid=4, seed=0)


METRICS = ("knn", "probe", "miou", *(f"retrieval/{teacher}" for teacher in ALL))
RIVAL = "lite0 alone"
HALF_WIDTH = "+- half the 95 % interval"
IN_DOCS = {  # names of recipes in the tables of docs/explanation/distillation_score.md
    RIVAL: "EfficientNet-Lite0 alone",
    "lite0 alone, summary cosine": "the same, default recipe",
    "lite0 alone, AM-RADIO": "the same, AM-RADIO's recipe",
    "hed alone": "HED alone",
    "xfeat alone": "XFeat alone",
    "lite0 and hed": "Lite0 and HED",
    "lite0 and xfeat": "Lite0 and XFeat",
    "all, fixed": "all three, MSE of the summaries",
    "all, summaries alone": "all three, summaries alone",
    "all, maps alone": "all three, maps alone",
    "all, lite0 x3": "all three, Lite0 three times as much",
    "all, summary cosine": "all three, default recipe",
    "all, summary angle": "all three, angle loss of the summaries",
    "all, summary cosine, lite0 x2": "all three, default recipe, Lite0 twice as much",
    "all, AM-RADIO": "all three, AM-RADIO's recipe",
}


def settings_of(row: dict[str, Any]) -> tuple[int, int, int]:
    """Return what rows of one table have in common: width of the student, steps, batch."""
    return row["width"], row["steps"], row["batch"]


def report(rows: list[dict[str, Any]]) -> None:
    """Print the tables of each setting of the students: the metrics, and their differences from the rival's."""
    print(
        "*, in the tables of the documentation:", "; ".join(f"{name!r} is {docs!r}" for name, docs in IN_DOCS.items())
    )
    for setting in dict.fromkeys(map(settings_of, rows)):
        print("width {}, {} steps, batch {}".format(*setting))
        by: dict[str, dict[int, dict[str, float]]] = {}
        for row in rows:
            if settings_of(row) == setting:
                by.setdefault(row["recipe"], {})[row["seed"]] = row["metrics"]
        metrics_table(by)
        if RIVAL in by:
            differences_table(by)


def metrics_table(by: dict[str, dict[int, dict[str, float]]]) -> None:
    """Print mean and deviation of every metric over the seeds, and the mean rank of the students over the metrics."""
    means = [[-np.mean([of_seed[m] for of_seed in of.values()]) for m in METRICS] for of in by.values()]
    ranks = rankdata(means, axis=0).mean(1)
    print("recipe", *METRICS, f"mean rank of {len(by)}", "seeds", sep=" | ")
    for (name, of), rank in zip(by.items(), ranks, strict=True):
        cells = (mean_and_deviation([of_seed[m] for of_seed in of.values()]) for m in METRICS)
        print(marked(name), *cells, f"{rank:.2f}", len(of), sep=" | ")


def equal_losses_table(rows: list[dict[str, Any]]) -> None:
    """Print the differences of students of all teachers from those of the rival that have the same losses and seed."""
    metrics = {(row["recipe"], row["seed"]): row["metrics"] for row in rows}
    print(f"\nall three less Lite0 alone ({HALF_WIDTH}), losses", *METRICS, "seeds", sep=" | ")
    for alone, seed in metrics:
        losses = alone.removeprefix(RIVAL + ", ")
        if seed == 0 and losses != alone:
            seeds = [s for r, s in metrics if r == alone and (f"all, {losses}", s) in metrics]
            pairs = [(metrics[f"all, {losses}", s], metrics[alone, s]) for s in seeds]
            apart = ([of_all[m] - of_one[m] for of_all, of_one in pairs] for m in METRICS)
            print(losses, *map(mean_and_half_width, apart), len(seeds), sep=" | ")


def own_teacher_table(rows: list[dict[str, Any]]) -> None:
    """Print what the default recipe's student of all teachers has on each teacher's own metrics, and that of it alone.

    These are retrieval of the teacher's summaries, and explained variance of its maps. Students with one seed are
    compared; means over the seeds.
    """
    print(
        "\n| width | steps | teacher | retrieval: all | alone | difference | maps: all | alone | difference | seeds |"
    )
    print(f"|--:|--:|---|{'--:|' * 7}")
    found = {(row["recipe"], *settings_of(row), row["seed"]): row for row in rows}
    for setting in dict.fromkeys(map(settings_of, rows)):
        for teacher in ALL:
            recipes = "all, summary cosine", f"{teacher} alone, summary cosine"
            students = [[found.get((name, *setting, seed)) for name in recipes] for seed in range(10)]
            pairs = [pair for pair in students if all(pair)]
            if not pairs:
                continue
            values = [[_own_metrics(row, teacher) for row in pair if row] for pair in pairs]
            of_all, alone = np.mean(values, axis=0)
            cells = (f"{a:.3f} | {b:.3f} | {a - b:+.3f}" for a, b in zip(of_all, alone, strict=True))
            print(f"| {setting[0]} | {setting[1]:,} | {TITLES[teacher]} | {' | '.join(cells)} | {len(pairs)} |")


def _own_metrics(row: dict[str, Any], teacher: str) -> tuple[float, float]:
    return row["metrics"][f"retrieval/{teacher}"], row["explained"][teacher]["spatial"]


def differences_table(by: dict[str, dict[int, dict[str, float]]]) -> None:
    """Print the mean difference of every metric from the rival's with the same seed, with its 95 % interval."""
    print(f"recipe less {RIVAL!r} ({HALF_WIDTH})", *METRICS, "seeds", sep=" | ")
    for name, of in by.items():
        seeds = sorted(set(of) & set(by[RIVAL]))
        if name != RIVAL and seeds:
            pairs = {m: [of[seed][m] - by[RIVAL][seed][m] for seed in seeds] for m in METRICS}
            print(marked(name), *(mean_and_half_width(pairs[m]) for m in METRICS), len(seeds), sep=" | ")


def marked(recipe: str) -> str:
    """Return the name of a recipe, with a star where the documentation's tables have it."""
    return f"{'* ' if recipe in IN_DOCS else ''}{recipe}"


def mean_and_deviation(values: list[float]) -> str:
    """Return the mean, and with two values or more their standard deviation."""
    spread = f" +- {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def mean_and_half_width(values: list[float]) -> str:
    """Return the mean, and with two values or more half its 95 % interval by Student's t."""
    scatter = measured_scatter([values])
    spread = "" if scatter is None else f" +- {scatter.half_width(values):.3f}"
    return f"{np.mean(values):+.3f}{spread}"


def main() -> None:
    """Run the missing students and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--steps", type=int, default=1875)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "backbone-nas")
    where = "file of the rows (default: results/teachers.json; with --report the published files)"
    parser.add_argument("--results", type=Path, help=where)
    parser.add_argument("--report", action="store_true", help="only print the tables of existing rows")
    args = parser.parse_args()
    if args.report:
        for path in [args.results] if args.results else PUBLISHED:
            print(f"\n{path.name}")
            report(json.loads(path.read_text()))
        if not args.results:
            equal_losses_table([row for path in PUBLISHED[:2] for row in json.loads(path.read_text())])
            own_teacher_table([row for path in PUBLISHED for row in json.loads(path.read_text())])
        return
    results = args.results or RESULTS
    rows = json.loads(results.read_text()) if results.exists() else []
    done = {(r["recipe"], r["seed"], *settings_of(r)) for r in rows}
    jobs = [
        (recipe, seed, args.width, args.steps, args.batch)
        for seed in range(args.first_seed, args.seeds)
        for recipe in args.recipes
    ]
    with ProcessPoolExecutor(args.workers) as pool:
        futures = [pool.submit(run, *job, args.cache) for job in jobs if job not in done]
        for future in as_completed(futures):
            row = future.result()
            rows.append(row)
            atomic_write(results, json.dumps(rows, indent=1))
            shown = {k: round(v, 3) for k, v in row["metrics"].items()}
            print(f"{len(rows)} {row['recipe']} seed {row['seed']} {row['seconds']} s {shown}", flush=True)
    for teacher in ALL:
        print(f"{teacher} itself", teacher_metrics(cifar(args.cache), teacher, images=8000))
    same = (args.width, args.steps, args.batch)
    report([row for row in rows if settings_of(row) == same])


if __name__ == "__main__":
    main()
