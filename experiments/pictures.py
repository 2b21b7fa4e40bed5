"""Draw the pictures of the documentation from the published rows.

    python -m experiments.pictures               (draws all)
    python -m experiments.pictures ablation.png  (draws one)

Takes seconds. docs/front.png is drawn from the data in docs/sample_report.html.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from experiments.cifar10_searches import ROWS as CIFAR10
from experiments.distillation.network_study import gains
from experiments.distillation.parallel import load_rows
from experiments.distillation.studied_networks import STUDIES
from experiments.distillation.training_length import RESULTS as LENGTHS
from experiments.distillation.training_length import STEPS
from experiments.full_space import ROWS as FULL_SPACE
from experiments.full_space import complete
from experiments.hybrid_findings import first_evaluations, has_attention
from experiments.hybrid_replays import ROWS as REPLAYS
from experiments.hybrid_replays import SAMPLERS, SEEDS
from experiments.sample_front import draw_front
from nas.replay.hybrid_rows import read_rows
from nas.replay.plots import COLORS, LINES, STYLE, draw
from nas.replay.published_study import quantiles
from nas.study.pareto import front

ROOT = Path(__file__).parents[1]
DOCS, RESULTS = ROOT / "docs", ROOT / "experiments" / "results"
ABLATION, BACKBONES = RESULTS / "ablation_study.json", RESULTS / "backbones_study.json"
LOWEST_GAIN = -0.02  # in the picture of the ablation; what is lower is written
PAIR = ("cifar100", "1080ti_32_ms", "GTX 1080 Ti")  # the one that no setting was chosen on
KINDS = {"convolutions alone": (COLORS[2], "^"), "with attention": (COLORS[0], "o")}
SEARCHES = {"laptop": "default (known-cost)", "laptop-evolution": "evolution", "laptop-random": "random"}

NETWORKS = {
    "vit_conv_128": "ViT, conv stem",
    "vit_128": "ViT, patches of 16 px",
    "vit_256": "ViT, patches of 16 px, 256 wide",
    "windowed_vit_64": "windowed ViT, patches of 4 px",
    "eradio_nano": "eradio_nano",
    "winner_of_laptop_cosine": "trial 202",
    "best_of_laptop": "best score of a search",
}
VITS, OTHERS = COLORS[0], COLORS[2]
SHORT_NAMES = {  # of networks of timm in the backbone study
    "timm:resnet18": "ResNet-18",
    "timm:regnety_004": "RegNetY",
    "timm:tf_efficientnetv2_b0": "EfficientNetV2",
    "timm:nf_regnet_b1": "NF-RegNet",
    "timm:convnext_atto": "ConvNeXt",
    "timm:poolformerv2_s12": "PoolFormerV2",
    "timm:pvt_v2_b0": "PVTv2",
    "timm:xcit_nano_12_p16_224": "XCiT",
    "timm:vit_tiny_patch16_224": "ViT-Ti",
    "timm:edgenext_xx_small": "EdgeNeXt",
    "timm:mobilenetv3_large_100": "MobileNetV3",
    "timm:ghostnet_100": "GhostNet",
    "timm:efficientvit_b0": "EfficientViT",
}
# Where the label of a point in the picture of the backbone study is, in points, if not above it to the right.
LABELS_AT = {
    **dict.fromkeys(("timm:nf_regnet_b1", "timm:resnet18", "timm:xcit_nano_12_p16_224", "MaxViT"), (-5, 3, "right")),
    **dict.fromkeys(("timm:regnety_004", "timm:poolformerv2_s12"), (5, -10, "left")),
    **dict.fromkeys(("timm:efficientvit_b0", "timm:tf_efficientnetv2_b0"), (0, -13, "center")),
}
MARKS = [
    *((VITS, line, marker) for line, marker in zip(("-", "--", ":", "-."), "osvP", strict=True)),
    *((OTHERS, line, marker) for line, marker in zip(("-", "--", ":"), "D^X", strict=True)),
]

Row = Mapping[str, Any]


def draw_published_replay(path: Path) -> None:
    """Draw the share of the hypervolume by evaluations on NAS-Bench-201."""
    dataset, latency, device = PAIR
    pairs = json.loads((RESULTS / "replay_curves.json").read_text())
    (pair,) = [each for each in pairs if (each["dataset"], each["latency"]) == (dataset, latency)]
    samplers = {name: quantiles([np.array(curve) for curve in curves]) for name, curves in pair["curves"].items()}
    draw({**pair, "bench": "nasbench201", "latency": device, "samplers": samplers}, path)


def draw_hybrid_replays(path: Path) -> None:
    """Draw the share of the hypervolume by evaluations on the table of hybrid backbones."""
    rows = load_rows(REPLAYS)
    curves = {name: [np.array(row["shares"]) for row in rows if row["sampler"] == name] for name in SAMPLERS}
    result = {"bench": "hybrid", "dataset": "built-in data", "latency": "two CPU cores", "seeds": SEEDS}
    samplers = {name: quantiles(found) for name, found in curves.items() if found}
    draw({**result, "samplers": samplers}, path)


def draw_hybrid_table(path: Path) -> None:
    """Draw throughput and score of every architecture of the table of hybrid backbones, and their front."""
    rows = first_evaluations(read_rows())
    points = np.array([(row["ratio"][0], row["scores"][-1]) for row in rows])
    with _axes(path) as (axes,):
        _scatter_kinds(axes, rows, points)
        best = points[sorted(front(points), key=lambda i: points[i, 0])]
        axes.step(*best.T, where="pre", color="0.25", linewidth=1.2, label=f"Pareto front ({len(best)})")
        baselines = points[[row["source"] == "baseline" for row in rows]]
        axes.scatter(*baselines.T, s=46, color="white", edgecolor="black", marker="D", label="E-RADIO baselines (ours)")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("throughput, in multiples of eradio_pico's (two CPU cores, batch 16, 64 px)")
        axes.set_ylabel("distillation score after 270 steps")
        axes.legend(loc="lower left", frameon=False)


def draw_hybrid_rungs(path: Path) -> None:
    """Draw the scores of the two first rungs and of the last one of every architecture of the table."""
    rows = first_evaluations(read_rows())
    scores = np.array([row["scores"] for row in rows])
    with _axes(path, 2) as panels:
        for axes, rung, steps in zip(panels, (0, 1), (30, 90), strict=True):
            _scatter_kinds(axes, rows, scores[:, [rung, 2]])
            axes.set_xlabel(f"score after {steps} steps")
        panels[0].set_ylabel("score after 270 steps")
        panels[0].legend(loc="lower right", frameon=False)


def draw_searches(path: Path) -> None:
    """Draw the hypervolume of real searches by evaluations and by training steps."""
    rows = json.loads((RESULTS / "builtin_study_a.json").read_text())
    with _axes(path, 2) as panels:
        for (method, name), color, line in zip(SEARCHES.items(), COLORS, LINES, strict=False):
            found = [row for row in rows if row["method"] == method]
            volumes = np.array([row["hypervolume"] for row in found])
            steps = np.median([row["steps"] for row in found], axis=0)
            for axes, x in zip(panels, (np.arange(1, volumes.shape[1] + 1), steps), strict=True):
                axes.fill_between(x, volumes.min(axis=0), volumes.max(axis=0), color=color, alpha=0.15, linewidth=0)
                axes.plot(x, np.median(volumes, axis=0), color=color, linestyle=line, linewidth=1.8, label=name)
        panels[0].set_xlabel("evaluated architectures")
        panels[1].set_xlabel("training steps (median of the seeds)")
        panels[1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        panels[0].set_ylabel("hypervolume: median, lowest and highest of 3 seeds")
        panels[1].legend(loc="lower right", frameon=False)


def draw_full_space(path: Path) -> None:
    """Draw the scores of the pilot of `full` at each rung, and throughput and score of the search's complete trials."""
    rows = load_rows(FULL_SPACE)
    with _axes(path, 2) as (pilot, search):
        for row in (row for row in rows if row["of"] == "pilot"):
            pilot.plot(row["steps"], row["scores"], color=COLORS[0], marker=".", linewidth=1, alpha=0.7)
        pilot.set_xscale("log")
        pilot.set_xticks(rows[0]["steps"], [str(steps) for steps in rows[0]["steps"]])
        pilot.minorticks_off()
        pilot.set_xlabel("training steps (pilot: 12 random models)")
        pilot.set_ylabel("distillation score, 128 px")
        done = complete(rows)
        points = np.array([(row["ratio"][0], row["scores"][-1]) for row in done])
        best = points[sorted(front(points), key=lambda i: points[i, 0])]
        search.step(*best.T, where="pre", color="0.25", linewidth=1.2, label=f"Pareto front ({len(best)})")
        ours = np.array([bool(row["baseline"]) for row in done])
        search.scatter(*points[~ours].T, s=22, color=COLORS[2], label="candidates, 270 steps")
        search.scatter(
            *points[ours].T, s=46, color="white", edgecolor="black", marker="D", label="E-RADIO baselines (ours)"
        )
        search.set_xscale("log", base=2)
        search.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        search.set_xlabel("throughput, in multiples of eradio_pico's (search)")
        search.legend(loc="lower left", frameon=False)


def draw_cifar10_search(path: Path) -> None:
    """Draw a search on images of CIFAR-10, and its front, near misses and baselines trained ten times longer."""
    rows = json.loads(CIFAR10.read_text())
    models = {model["number"]: model for model in rows["searches"][0]["models"]}
    retrained = rows["retrained"]["0"]
    longer = [c | {"attention": models[c["trial"]]["attention"]} for c in retrained["candidates"]]
    steps = retrained["steps"]
    with _axes(path, 2) as panels:
        searched = [(model, model["ratio"][0]) for model in models.values()]
        for axes, named in zip(panels, (searched, [(model, model["ratio"]) for model in longer]), strict=True):
            ours = np.array([bool(model["baseline"]) for model, _ in named])
            attends = np.array([model["attention"] for model, _ in named])
            points = np.array([(ratio, model["score"]) for model, ratio in named])
            candidates = points[~ours]
            best = candidates[sorted(front(candidates), key=lambda i: candidates[i, 0])]
            axes.step(*best.T, where="pre", color="0.25", linewidth=1.2, label=f"Pareto front ({len(best)})")
            for (label, (color, marker)), kind in zip(KINDS.items(), (~attends, attends), strict=True):
                axes.scatter(*points[~ours & kind].T, s=22, color=color, marker=marker, label=label)
            axes.scatter(
                *points[ours].T, s=46, color="white", edgecolor="black", marker="D", label="E-RADIO baselines (ours)"
            )
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panels[0].set_ylabel("distillation score, CIFAR-10 at 64 px")
        panels[0].set_xlabel("throughput, in multiples of eradio_pico's (270 steps)")
        panels[1].set_xlabel(f"throughput (front, near misses and baselines, {steps:,} steps)")
        panels[1].legend(loc="lower left", frameon=False)
        panels[0].legend(
            *[entry[:1] for entry in panels[0].get_legend_handles_labels()], loc="lower left", frameon=False
        )


def draw_training_length(path: Path) -> None:
    """Draw the scores of vision transformers and other networks by training steps, and the last ones by throughput."""
    every = [row for row in load_rows(LENGTHS) if row.get("steps") in (None, 2700)]  # timings have no steps
    with _axes(path, 2) as (curves, ends):
        for (name, title), (color, line, marker) in zip(NETWORKS.items(), MARKS, strict=True):
            found = [row for row in every if row.get("recipe") == "search-cosine" and row["arch"] == name]
            scores = np.array([row["scores"] for row in found])
            curves.plot(STEPS[: scores.shape[1]], scores.mean(axis=0), color=color, linestyle=line, marker=marker, ms=4)
            (ratio,) = (row["ratio"][0] for row in every if "ratio" in row and row["arch"] == name)
            ends.scatter(ratio, scores[:, -1].mean(), s=40, color=color, marker=marker, label=title)
        for axes, ticks in ((curves, STEPS[: scores.shape[1]]), (ends, (0.5, 1, 2, 4, 8))):
            axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
            axes.minorticks_off()
        curves.set_xlabel("training steps (two seeds, mean)")
        curves.set_ylabel("distillation score, 64 px")
        ends.set_xlabel("throughput relative to eradio_nano (scores after 2,700 steps)")
        ends.legend(loc="lower right", frameon=False)


def draw_ablation(path: Path) -> None:
    """Draw what each change of E-RADIO does to its score, to its throughput, and to the score at equal throughput."""
    rows, study = load_rows(ABLATION), STUDIES["ablation"]
    gained = gains(study, rows)
    names = sorted(gained, key=lambda name: gained[name].mean())
    with _axes(path, 2, height=6.4) as (scores, speeds):
        for y, name in enumerate(names):
            values = gained[name]
            color = COLORS[2] if values.min() > 0 else COLORS[0] if values.max() < 0 else "0.45"
            if values.mean() < LOWEST_GAIN:
                scores.plot(LOWEST_GAIN, y, "<", color=color, markersize=7)
                scores.annotate(f"{values.mean():.3f}", (LOWEST_GAIN, y), (8, -4), textcoords="offset points")
            else:
                scores.plot(values, [y] * len(values), "o", color=color, markersize=4, alpha=0.6)
                scores.plot(values.mean(), y, "|", color=color, markersize=13, markeredgewidth=2.2)
            (ratio,) = (row["ratio"] for row in rows if "ratio" in row and row["arch"] == name)
            speeds.plot(ratio[1:], [y, y], color=color, linewidth=2)
            speeds.plot(ratio[0], y, "o", color=color, markersize=5)
        for axes, same in ((scores, 0), (speeds, 1)):
            axes.axvline(same, color="0.3", linewidth=1)
        scores.set_yticks(range(len(names)), names)
        scores.set_xlabel("score gained at equal throughput (dots: seeds)")
        speeds.set_xlabel("throughput relative to E-RADIO (95 % intervals)")


def draw_backbones(path: Path) -> None:
    """Draw each family's score by its throughput and by its ImageNet accuracy; lines join E-RADIO in three widths."""
    rows, study = load_rows(BACKBONES), STUDIES["backbones"]
    score: dict[str, list[float]] = {}
    for row in rows:
        if "scores" in row:
            score.setdefault(row["arch"], []).append(row["scores"][-1])
    kinds = dict(zip(("without attention", "with attention"), KINDS.values(), strict=True))
    speed = {row["arch"]: row["ratio"][0] for row in rows if "ratio" in row}
    with _axes(path, 2, height=5.6) as panels:
        for axes, x in zip(panels, (speed, study.top1), strict=True):
            for name in (name for name in study.families if name in x):
                color, marker = kinds["with attention" if name in study.attention else "without attention"]
                point = (x[name], np.mean(score[name]))
                axes.scatter(*point, s=36, color=color, marker=marker)
                dx, dy, side = LABELS_AT.get(name, (5, 3, "left"))
                label = SHORT_NAMES.get(name, name)
                axes.annotate(label, point, (dx, dy), textcoords="offset points", size=8, ha=side)
        line = sorted((study.reference, *study.widths), key=lambda name: speed[name])
        points = [(speed[name], np.mean(score[name])) for name in line]
        panels[0].plot(
            *zip(*points, strict=True), color=COLORS[0], linewidth=1, zorder=0, label="E-RADIO, 24 to 64 wide"
        )
        for name, (color, marker) in kinds.items():
            panels[0].scatter([], [], color=color, marker=marker, label=name)
        for axes in panels:
            axes.margins(x=0.14)
        panels[0].set_xscale("log", base=2)
        panels[0].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panels[0].set_xlabel("throughput relative to E-RADIO, 96 px")
        panels[0].set_ylabel("distillation score after 810 steps")
        panels[0].legend(loc="lower left", frameon=False)
        panels[1].set_xlabel("ImageNet accuracy, % (published)")


def _scatter_kinds(axes: Axes, rows: Sequence[Row], points: NDArray[np.float64]) -> None:
    attends = np.array([has_attention(row) for row in rows])
    for (name, (color, marker)), chosen in zip(KINDS.items(), (~attends, attends), strict=True):
        label = f"{name} ({chosen.sum()})"
        axes.scatter(*points[chosen].T, s=14, color=color, marker=marker, alpha=0.55, linewidth=0, label=label)


@contextmanager
def _axes(path: Path, panels: int = 1, height: float = 4.4) -> Iterator[Sequence[Axes]]:
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2 if panels == 1 else 9.0, height), layout="constrained")
        FigureCanvasAgg(figure)
        found = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
        for axes in found:
            axes.grid(color="0.9", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        yield found
        figure.savefig(path, dpi=200)


PICTURES = {
    "front.png": draw_front,
    "replay.png": draw_published_replay,
    "searches.png": draw_searches,
    "hybrid_table.png": draw_hybrid_table,
    "hybrid_rungs.png": draw_hybrid_rungs,
    "hybrid_replays.png": draw_hybrid_replays,
    "full_space.png": draw_full_space,
    "cifar10_search.png": draw_cifar10_search,
    "training_length.png": draw_training_length,
    "ablation.png": draw_ablation,
    "backbones.png": draw_backbones,
}


def main() -> None:
    """Draw the named pictures, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"pictures to draw, of: {', '.join(PICTURES)}")
    names = parser.parse_args().names
    for name in names or PICTURES:
        if name not in PICTURES:
            parser.error(f"NAME: no picture is called {name}")
        PICTURES[name](DOCS / name)
        print(DOCS / name)


if __name__ == "__main__":
    main()
