"""Train many networks for the same number of steps under one recipe, and time each of them.

    python -m experiments.distillation.network_study ablation --seeds 2 --workers 2
    python -m experiments.distillation.network_study ablation --time          (on an otherwise idle machine)
    python -m experiments.distillation.network_study ablation --report

Studies:
    backbones   families of backbones, timm's networks and presets sized for two cores, at 96 px: which fall behind the
                order of their ImageNet accuracies? The paper's finding 5 (AM-RADIO, arXiv 2312.06709, table 3). All
                have a map of stride 16, the targets', many by E-RADIO's neck
    ablation    E-RADIO with one thing changed, at 128 px, where its attention has more than one window; and narrower
                and wider with as many heads, which shows what a score costs by width
    fresh_ablation  the main ones of these at 64 px, for 2,700 steps on 30,000 images, which hardly repeat

All learn from the built-in images and teachers under the recipe of a search, whose learning rate is constant after the
warm-up: the score at each of the study's rungs is what a training of that length ends with. Where ../shared/data is, a
row also has the accuracy of kNN and of a linear probe on CIFAR-10 and the mIoU on CamVid of the frozen features, which
no student has seen. Timings are pairs with the study's reference, interleaved, as in a search.

Rows are saved in experiments/results/STUDY_study.json; existing ones are not made again. Scores do not depend on what
else the machine does; timings do.

Hardware:  two cores; some 45 minutes a seed for the ablation, 100 for the backbones; timing some minutes, idle
Expected:  see experiments/LOG.md
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.distillation.parallel import load_rows, train_missing
from experiments.distillation.studied_networks import STUDIES, NetworkStudy, build_studied
from experiments.distillation.teachers import DATA
from experiments.distillation.timed import time_missing
from experiments.distillation.training import LABELS, cifar_targets, metrics_of, seed_weights, train
from nas.analysis.agreement import RankCorrelation, rank_correlation
from nas.cache import open_study_targets
from nas.machine import cache_root
from nas.measure.counts import checked_count
from nas.study.config import SearchConfig

RESULTS = Path(__file__).parents[1] / "results"
Row = dict[str, Any]
Array = NDArray[np.float64]


def _config(study: NetworkStudy) -> SearchConfig:
    default = SearchConfig()
    recipe = replace(default.distill, img_size=study.image_px, rung_steps=study.rungs, precision=study.precision)
    return replace(default, train_images=study.images or default.train_images, distill=recipe)


def run(study_name: str, name: str, seed: int) -> Row:
    """Train one network of a study; return its row."""
    study = STUDIES[study_name]
    config = _config(study)
    targets = open_study_targets(config, cache_root(None))
    seed_weights(seed)
    backbone, began = build_studied(study.networks[name]), time.perf_counter()
    trained = train(backbone, targets, config.distill, seed)
    counts = checked_count(name, backbone, study.image_px)
    return {
        "recipe": "search", "arch": name, "seed": seed, "scores": trained.scores, "teachers": trained.teachers,
        "metrics": metrics_of(trained.student, targets), "macs": counts.macs, "params": counts.params,
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip


def gains(study: NetworkStudy, rows: Sequence[Row]) -> dict[str, Array]:
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


def _on_line(x: float, xs: Sequence[float], ys: Array) -> float:
    """Return the value at x of the lines through the points, of which the outer ones go on."""
    i = min(max(int(np.searchsorted(xs, x)), 1), len(xs) - 1)
    return float(ys[i - 1] + (x - xs[i - 1]) / (xs[i] - xs[i - 1]) * (ys[i] - ys[i - 1]))


def report(study_name: str, rows: list[Row]) -> None:
    """Print each network's scores, metrics and throughput, means over seeds; for several families also their orders."""
    study = STUDIES[study_name]
    trainings = [row for row in rows if "scores" in row]
    labels = [name for name in LABELS if all(name in row["metrics"] for row in trainings)]
    values = {
        name: np.array([row["scores"] + [row["metrics"][label] for label in labels] for row in of])
        for name in study.networks
        if (of := [row for row in trainings if row["arch"] == name])
    }
    heads = [*(f"{steps:,} steps" for steps in study.rungs), *(LABELS[name] for name in labels)]
    _print_networks(study, rows, values, heads)
    if study.top1:
        _print_orders(study, rows, {name: of.mean(axis=0) for name, of in values.items()}, heads)


def _print_networks(study: NetworkStudy, rows: list[Row], values: Mapping[str, Array], heads: list[str]) -> None:
    timings = {row["arch"]: row["ratio"] for row in rows if "ratio" in row}
    sizes = {row["arch"]: (row["macs"] / 1e6, row["params"] / 1e6) for row in rows if "macs" in row}
    gained = gains(study, rows)
    published, scored = (
        _ranks({name: of[name] for name in study.top1 if name in values})
        for of in (study.top1, {name: of.mean(axis=0)[len(study.rungs) - 1] for name, of in values.items()})
    )
    columns = ["MMACs", "M params", "throughput", "seeds", *heads, "at equal throughput"]
    columns += ["ImageNet (rank)", "rank by score"] if study.top1 else []
    print(f"| network | {' | '.join(columns)} |\n|---|{'--:|' * len(columns)}")
    for name, of in values.items():
        mean = of.mean(axis=0)
        spread = np.abs(of - mean).max(axis=0)
        macs, params = sizes[name]
        ratio = "{:.2f}x ({:.2f} to {:.2f})".format(*timings[name]) if name in timings else "-"
        cells = [name, f"{macs:.0f}", f"{params:.2f}", ratio, str(len(of))]
        cells += [_cell(m, s, len(of)) for m, s in zip(mean, spread, strict=True)]
        cells.append(_gain_cell(gained.get(name)))
        if study.top1:
            ranked = name in published
            cells += [f"{study.top1[name]:.1f} ({published[name]})", str(scored[name])] if ranked else ["-", "-"]
        print(f"| {' | '.join(cells)} |")


def _ranks(values: Mapping[str, float]) -> dict[str, int]:
    """Return the rank of each value, 1 for the highest."""
    return {name: rank for rank, name in enumerate(sorted(values, key=lambda name: -values[name]), start=1)}


def _print_orders(study: NetworkStudy, rows: list[Row], means: Mapping[str, Array], heads: list[str]) -> None:
    """Print how the order of the families by each score and metric agrees with others, and where attention stands."""
    families = [name for name in study.families if name in means]
    middle, last = len(study.rungs) - 2, len(study.rungs) - 1
    orders: dict[str, Mapping[str, float]] = {
        "ImageNet accuracy": study.top1,
        "MACs": {row["arch"]: row["macs"] for row in rows if "macs" in row},
        "parameters": {row["arch"]: row["params"] for row in rows if "params" in row},
        "throughput": {row["arch"]: row["ratio"][0] for row in rows if "ratio" in row},
        f"score after {heads[middle]}": {name: means[name][middle] for name in families},
        f"score after {heads[last]}": {name: means[name][last] for name in families},
    }
    print(f"\n| Kendall's tau with | networks | {' | '.join(heads)} |\n|---|--:|{'--:|' * len(heads)}")
    for order, of in orders.items():
        names = [name for name in families if name in of]
        found = [rank_correlation([(of[name], means[name][i]) for name in names]) for i in range(len(heads))]
        print(f"| {order} | {len(names)} | {' | '.join(map(_tau_cell, found))} |")
    ranks = [_ranks({name: means[name][i] for name in families}) for i in range(len(heads))]
    print(f"\n| mean rank among {len(families)} networks | networks | {' | '.join(heads)} |", end="")
    print(f"\n|---|--:|{'--:|' * len(heads)}")
    for kind, inside in (("with attention", True), ("without attention", False)):
        names = [name for name in families if (name in study.attention) is inside]
        cells = [f"{np.mean([of[name] for name in names]):.1f}" if names else "-" for of in ranks]
        print(f"| {kind} | {len(names)} | {' | '.join(cells)} |")


def _tau_cell(found: RankCorrelation) -> str:
    tau = "-" if found.tau is None else f"{found.tau:.2f}"
    return tau if found.interval is None else "{} ({:.2f} to {:.2f})".format(tau, *found.interval)


def _cell(mean: float, spread: float, seeds: int, sign: str = "") -> str:
    return f"{mean:{sign}z.3f}" + (f" ± {spread:.3f}" if seeds > 1 else "")


def _gain_cell(gain: Array | None) -> str:
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
        networks = {name: partial(build_studied, network) for name, network in study.networks.items()}
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
