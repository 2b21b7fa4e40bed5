"""Train many networks for the same number of steps under one recipe, and time each of them.

    python -m experiments.distillation.network_study ablation --seeds 2 --workers 2
    python -m experiments.distillation.network_study ablation --time          (on an otherwise idle machine)
    python -m experiments.distillation.network_study ablation --report

Studies:
    backbones   families of backbones, timm's networks and presets sized for two cores, at 96 px: which fall behind the
                order of their ImageNet accuracies? The paper's finding 5 (AM-RADIO, arXiv 2312.06709, table 3)
    ablation    E-RADIO with one thing changed, at 128 px, where its attention has more than one window; and narrower
                and wider with as many heads, which shows what a score costs by width

All learn from the built-in images and teachers under the recipe of a search, whose learning rate is constant after the
warm-up: the score at each of the study's rungs is what a training of that length ends with. Where ../shared/data is, a
row also has the accuracy of kNN and of a linear probe on CIFAR-10 and the mIoU on CamVid of the frozen features, which
no student has seen. Timings are pairs with the study's reference, interleaved, as in a search.

Rows are saved in experiments/results/STUDY_study.json; existing ones are not made again. Scores do not depend on what
else the machine does; timings do.

Hardware:  two cores; some 45 minutes a seed for the ablation, 70 for the backbones; timing some minutes, idle
Expected:  see experiments/LOG.md
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from backbones import build, resolve
from experiments.distillation.parallel import load_rows, train_missing
from experiments.distillation.teachers import DATA
from experiments.distillation.timed import time_missing
from experiments.distillation.training import LABELS, cifar_targets, metrics_of, seed_weights, train
from nas.cache import open_study_targets
from nas.cli import cache_root
from nas.measure.counts import network_totals
from nas.study.config import SearchConfig
from search_space import ArchSpec, StageSpec
from search_space.presets import eradio

RESULTS = Path(__file__).parents[1] / "results"
Row = dict[str, Any]


@dataclass(frozen=True)
class NetworkStudy:
    """Networks that are trained alike.

    Attributes:
        image_px: Side of the images in px.
        rungs: Steps at which a training is scored; the last is its length.
        reference: Network whose throughput the others' is compared with.
        networks: Name of each network, and its spec; None: the name is one for `backbones.resolve`.
        widths: Networks that are the reference in other widths.
        top1: Published ImageNet accuracy in % of networks that have one.
    """

    image_px: int
    rungs: tuple[int, ...]
    reference: str
    networks: Mapping[str, ArchSpec | None]
    widths: tuple[str, ...] = ()
    top1: Mapping[str, float] = field(default_factory=dict)


def _eradio(stages: Mapping[int, StageSpec] | None = None, width: int = 32, **changes: Any) -> ArchSpec:
    """Return the study's E-RADIO with other stages, counted from 1, another width, or other fields."""
    base = eradio(
        width, depths=(1, 2, 2, 2), window=4, in_dim=16, heads=(4, 8), subsampling="pool", pre_conv="depthwise",
        cpb_hidden=64, neck="stage3", neck_dim=256,
    )  # fmt: skip
    others = stages or {}
    return replace(base, stages=tuple(others.get(i, stage) for i, stage in enumerate(base.stages, start=1)), **changes)


_WIDTHS = {"24 channels wide": 24, "40 channels wide": 40}


def _ablation() -> dict[str, ArchSpec | None]:
    _, _, third, fourth = _eradio().stages
    windowed = {"expansion": 4.0, "pre_conv": "depthwise", "window": 4, "cpb_hidden": 64}
    plain = {"expansion": 4.0, "pre_conv": "depthwise"}
    networks: dict[str, ArchSpec | None] = {
        "E-RADIO": _eradio(),
        "stage 3: 4 windowed layers": _eradio({3: StageSpec("window", 4, 128, heads=4, **windowed)}),
        "stage 3: 2 windowed layers": _eradio({3: StageSpec("window", 2, 128, heads=4, **windowed)}),
        "stage 4: multi-resolution": _eradio({4: replace(fourth, block="mr_window", depth=1, subsampling="pool")}),
        "stages 3, 4: global attention": _eradio(
            {3: StageSpec("attention", 4, 128, heads=4, **plain), 4: StageSpec("attention", 2, 256, heads=8, **plain)}
        ),
        "windows of 2": _eradio({3: replace(third, window=2), 4: replace(fourth, window=2)}),
        "stages 1, 2: residual blocks": _eradio(
            {1: StageSpec("basic", 1, 32, expansion=1.0), 2: StageSpec("basic", 2, 64, expansion=1.0)}
        ),
        "stage 2: multi-resolution": _eradio(
            {2: StageSpec("mr_window", 1, 64, heads=2, subsampling="pool", **windowed)}
        ),
        "stage 3: c2f": _eradio({3: StageSpec("c2f", 4, 128, expansion=0.5)}),
        "all stages: c2f": _eradio(
            {3: StageSpec("c2f", 4, 128, expansion=0.5), 4: StageSpec("c2f", 2, 256, expansion=0.5)}
        ),
        "subsampling: conv": _eradio({3: replace(third, subsampling="conv")}),
        "downsampling: 2x2 patches": _eradio(downsampling="patch"),
        "downsampling: pool": _eradio(downsampling="pool"),
        "no neck": _eradio(neck="none"),
        "MLP: SwiGLU": _eradio({3: replace(third, mlp="swiglu"), 4: replace(fourth, mlp="swiglu")}),
    }
    for pre_conv in ("none", "dense"):
        stages = {3: replace(third, pre_conv=pre_conv), 4: replace(fourth, pre_conv=pre_conv)}
        networks[f"pre-conv: {pre_conv}"] = _eradio(stages)
    # What score costs in throughput by width alone; the heads stay as many.
    return networks | {name: _eradio(width=width) for name, width in _WIDTHS.items()}


# Accuracies of timm's results/results-imagenet.csv (commit 0173a13), for the weights named here; timm writes them.
_TOP1 = {
    "resnet18": 73.158,  # a1_in1k, 288 px
    "regnety_004": 74.028,  # pycls_in1k
    "tf_efficientnetv2_b0": 78.358,  # in1k
    "nf_regnet_b1": 79.306,  # ra2_in1k, 288 px
    "convnext_atto": 77.008,  # d2_in1k, 288 px
    "convnextv2_atto": 77.760,  # fcmae_ft_in1k, 288 px
    "poolformerv2_s12": 78.004,  # sail_in1k
    "pvt_v2_b0": 70.660,  # in1k
    "xcit_nano_12_p16_224": 69.962,  # fb_in1k
    "vit_tiny_patch16_224": 75.454,  # augreg_in21k_ft_in1k
    "edgenext_xx_small": 71.878,  # in1k, 288 px
    "mobilevitv2_050": 70.138,  # cvnets_in1k, 256 px
    "mobilenetv3_large_100": 75.766,  # ra_in1k
    "ghostnet_100": 73.982,  # in1k
}


def _windowed(block: str, depths: tuple[int, ...], width: int, **fields: Any) -> ArchSpec:
    stages = (
        StageSpec(block, depth, width * 2**i, heads=2 ** (i + 1), expansion=4.0, window=3, **fields)
        for i, depth in enumerate(depths)
    )
    return ArchSpec(tuple(stages), stem_width=24)


def _backbones() -> dict[str, ArchSpec | None]:
    layout = {"depths": (1, 2, 2, 2), "window": 3, "in_dim": 16, "heads": (4, 8), "cpb_hidden": 64}
    pooled = {"subsampling": "pool", "pre_conv": "depthwise"}
    vit = StageSpec("vit", 8, 192, heads=3, expansion=4.0, positions="conditional", registers=4)
    windowed_vit = replace(vit, window=3, global_every=4)
    repdw = (
        StageSpec("repdw", depth, width, expansion=2.0, squeeze=0.25)
        for depth, width in ((2, 40), (2, 80), (6, 160), (2, 320))
    )
    levit = (
        StageSpec("bn_attention", 3, width, heads=heads, expansion=2.0, key_width=16, grid=6)
        for width, heads in ((128, 4), (256, 6), (384, 8))
    )
    fastervit = (
        StageSpec("basic", 1, 32, expansion=1.0),
        StageSpec("basic", 2, 64, expansion=1.0),
        StageSpec("carrier", 3, 128, heads=4, expansion=4.0, window=3, cpb_hidden=64),
        StageSpec("swin", 2, 256, heads=8, expansion=4.0, window=3, cpb_hidden=64),
    )
    return {
        **{f"timm:{name}": None for name in (*_TOP1, "efficientvit_b0")},
        "E-RADIO, no neck": eradio(48, **layout, **pooled),  # type: ignore[arg-type]
        "E-RADIO": eradio(48, **layout, **pooled, neck="stage3", neck_dim=256),  # type: ignore[arg-type]
        "Swin": _windowed("swin", (2, 2, 4, 2), 32),
        "FasterViT": ArchSpec(fastervit, stem_width=32),
        "MaxViT": _windowed("maxvit", (1, 1, 2, 1), 32, squeeze=0.25),
        "RepViT": ArchSpec(tuple(repdw), stem_width=24, downsampling="pool"),
        "LeViT": ArchSpec(tuple(levit), stem="conv16", downsampling="attention"),
        "ViT": ArchSpec((vit,), stem="patch16"),
        "windowed ViT": ArchSpec((windowed_vit,), stem="conv16"),
    }


STUDIES = {
    "ablation": NetworkStudy(128, (90, 270, 810), "E-RADIO", _ablation(), widths=tuple(_WIDTHS)),
    "backbones": NetworkStudy(
        96, (90, 270, 1350), "E-RADIO", _backbones(), top1={f"timm:{name}": top1 for name, top1 in _TOP1.items()}
    ),
}


def _arch(study: NetworkStudy, name: str) -> str | dict[str, Any]:
    """Return a network as `nas.measure` takes it."""
    spec = study.networks[name]
    return name if spec is None else spec.to_dict()


def _config(study: NetworkStudy) -> SearchConfig:
    recipe = replace(SearchConfig().distill, img_size=study.image_px, rung_steps=study.rungs, precision="fp32")
    return replace(SearchConfig(), distill=recipe)


def run(study_name: str, name: str, seed: int) -> Row:
    """Train one network of a study; return its row."""
    study = STUDIES[study_name]
    config = _config(study)
    targets, spec = open_study_targets(config, cache_root(None)), study.networks[name]
    seed_weights(seed)
    backbone, began = resolve(name)[1] if spec is None else build(spec), time.perf_counter()
    trained = train(backbone, targets, config.distill, seed)
    counts = network_totals(_arch(study, name), study.image_px)
    return {
        "recipe": "search", "arch": name, "seed": seed, "scores": trained.scores, "teachers": trained.teachers,
        "metrics": metrics_of(trained.student, targets), "macs": counts.macs, "params": counts.params,
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip


def gains(study: NetworkStudy, rows: Sequence[Row]) -> dict[str, NDArray[np.float64]]:
    """Return each network's last score less that of its reference in the width that has the same throughput.

    The score of that width lies on lines through the reference and `widths`, over the logarithm of the throughput.
    There is one value for each seed that all of these have; none for the reference in any width, or without timings.
    """
    scores = {(row["arch"], row["seed"]): row["scores"][-1] for row in rows if "scores" in row}
    speeds = {row["arch"]: np.log2(row["ratio"][0]) for row in rows if "ratio" in row}
    line = sorted((study.reference, *study.widths), key=lambda name: speeds.get(name, 0.0))
    if not study.widths or any(name not in speeds for name in line):
        return {}
    found = {}
    for name in study.networks:
        seeds = [seed for seed in range(10) if all((each, seed) in scores for each in (name, *line))]
        if name in speeds and name not in line and seeds:
            ends = np.array([[scores[each, seed] for each in line] for seed in seeds])
            same = [_on_line(speeds[name], [speeds[each] for each in line], of) for of in ends]
            found[name] = np.array([scores[name, seed] for seed in seeds]) - same
    return found


def _on_line(x: float, xs: Sequence[float], ys: NDArray[np.float64]) -> float:
    """Return the value at x of the lines through the points, of which the outer ones go on."""
    i = min(max(int(np.searchsorted(xs, x)), 1), len(xs) - 1)
    return float(ys[i - 1] + (x - xs[i - 1]) / (xs[i] - xs[i - 1]) * (ys[i] - ys[i - 1]))


def report(study_name: str, rows: list[Row]) -> None:
    """Print each network's scores, metrics and throughput, means over seeds; for published accuracies the agreement."""
    study = STUDIES[study_name]
    trainings = [row for row in rows if "scores" in row]
    timings = {row["arch"]: row["ratio"] for row in rows if "ratio" in row}
    labels = [name for name in LABELS if all(name in row["metrics"] for row in trainings)]
    heads = [*(f"{steps:,} steps" for steps in study.rungs), *(LABELS[name] for name in labels)]
    gained, extra = gains(study, rows), ["ImageNet"] if study.top1 else ["at equal throughput"] if study.widths else []
    columns = ["MMACs", "M params", "throughput", "seeds", *heads, *extra]
    print(f"| network | {' | '.join(columns)} |\n|---|{'--:|' * len(columns)}")
    means: dict[str, list[float]] = {}
    for name in study.networks:
        of = [row for row in trainings if row["arch"] == name]
        if not of:
            continue
        values = np.array([row["scores"] + [row["metrics"][label] for label in labels] for row in of])
        means[name] = list(values.mean(axis=0))
        spread = np.abs(values - values.mean(axis=0)).max(axis=0)
        cells = [_cell(mean, s, len(of)) for mean, s in zip(means[name], spread, strict=True)]
        ratio = "{:.2f}x ({:.2f} to {:.2f})".format(*timings[name]) if name in timings else "-"
        sizes = [f"{of[0]['macs'] / 1e6:.0f}", f"{of[0]['params'] / 1e6:.2f}", ratio, str(len(of))]
        top1 = [str(study.top1.get(name, "-"))] if study.top1 else []
        over = [_gain_cell(gained.get(name))] if study.widths else []
        print(f"| {' | '.join([name, *sizes, *cells, *top1, *over])} |")
    ranked = [name for name in study.top1 if name in means]
    if len(ranked) > 2:
        print("\nKendall's tau with the published ImageNet accuracies of", len(ranked), "networks:")
        for column, head in enumerate(heads):
            tau = kendalltau([study.top1[name] for name in ranked], [means[name][column] for name in ranked]).statistic
            print(f"  {head}: {tau:.2f}")


def _cell(mean: float, spread: float, seeds: int, sign: str = "") -> str:
    return f"{mean:{sign}.3f}" + (f" ± {spread:.3f}" if seeds > 1 else "")


def _gain_cell(gain: NDArray[np.float64] | None) -> str:
    return "-" if gain is None else _cell(gain.mean(), np.abs(gain - gain.mean()).max(), len(gain), "+")


def main() -> None:
    """Train or time what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=list(STUDIES), help="study")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each network (default: 2)")
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time (default: 2)")
    parser.add_argument("--networks", nargs="+", help="names of networks, as the table has them (default: all)")
    parser.add_argument("--time", action="store_true", help="time networks, on an idle machine (default: train them)")
    parser.add_argument("--report", action="store_true", help="only print the table of existing rows (default: no)")
    arguments = parser.parse_args()
    study, path = STUDIES[arguments.study], RESULTS / f"{arguments.study}_study.json"
    rows = load_rows(path)
    if unknown := sorted(set(arguments.networks or ()) - set(study.networks)):
        parser.error(f"--networks: {unknown[0]!r}: choose one of: {', '.join(study.networks)}")
    if arguments.time:
        networks = {name: _arch(study, name) for name in study.networks}
        time_missing(networks, study.reference, study.image_px, rows, path)
    elif not arguments.report:
        done = {(row["arch"], row["seed"]) for row in rows if "scores" in row}
        wanted = product(range(arguments.seeds), arguments.networks or study.networks)
        missing = [(arguments.study, name, seed) for seed, name in wanted if (name, seed) not in done]
        if DATA.exists() and missing:
            cifar_targets()  # once, for all processes
        open_study_targets(_config(study), cache_root(None))
        train_missing(run, missing, rows, path, arguments.workers)
    report(arguments.study, rows)


if __name__ == "__main__":
    main()
