"""Correlate rankings of architectures by short and long trainings, by seeds, and by probes.

    python -m experiments.distillation.trust --archs 30 --seeds 2 --workers 2
    python -m experiments.distillation.trust --report

Trains random architectures of space "micro" on the built-in images and teachers under the default recipe, scores them
at every rung, and prints Kendall's tau between rungs, between seeds and with the probes. The search's score has 95 %
intervals from a bootstrap over the architectures. Rows are saved in experiments/results; existing ones are not run
again. The report takes about half a minute.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

from backbones import build
from nas.analysis.agreement import rank_correlation
from nas.cache import open_targets
from nas.distill.evaluation.explained_variance import explained_variance
from nas.distill.evaluation.probes import tokens
from nas.distill.evaluation.tasks import student_features, student_metrics
from nas.distill.trainer import Distiller
from nas.study.config import DistillConfig, SearchConfig
from search_space import SPACES

STRENGTHS = (0.003, 0.03, 0.3)  # of the ridge penalty, against features of variance 1
RESULTS = Path(__file__).parents[1] / "results" / "trust.json"


def run(
    arch: int, seed: int, steps: tuple[int, ...], recipe: dict[str, Any], stored: tuple[str, float], cache: Path
) -> Any:
    """Train one architecture to the last of `steps`; return explained variance and mean loss at each."""
    torch.set_num_threads(1)
    default = SearchConfig()
    config = DistillConfig(precision="fp32", rung_steps=steps, **{"summary_loss": "mse"} | recipe)
    targets = open_targets(
        default.data, default.teachers, root=cache, train_images=default.train_images, val_images=default.val_images,
        image_px=config.img_size, grid=default.grid, seed=0, storage=stored[0],
        share=stored[1],
    )  # fmt: skip
    spec = SPACES["micro"].sample(random.Random(arch))
    torch.manual_seed(seed)
    distiller = Distiller(build(spec), targets, config, seed=seed)
    rungs, since, began = [], 0, time.perf_counter()
    for step in steps:
        distiller.train_until(step)
        teachers = explained_variance(distiller.averaged, targets.val, "cpu")
        rungs.append(
            {
                "steps": step,
                "teachers": teachers,
                "losses": distiller.mean_losses(since),
                "linear": linear(distiller.averaged, targets),
            }
        )
        since = step
    distiller.close()
    row = {
        "arch": arch,
        "arch_id": spec.arch_id,
        "seed": seed,
        "recipe": recipe,
        "stored": list(stored),
        "rungs": rungs,
    }
    metrics = student_metrics(distiller.averaged, targets, "cpu")
    return {**row, "metrics": metrics, "seconds": round(time.perf_counter() - began, 1)}


def linear(student: Any, targets: Any, images: int = 1000) -> dict[str, dict[str, dict[str, float]]]:
    """Return explained variance by ridge regression from the backbone's own features: strength -> teacher -> head."""

    def features(split: Any, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        found = list(student_features(student, "cpu", split, count))
        return torch.cat([f.summary for f in found]).double(), torch.cat([tokens(f.spatial) for f in found]).double()

    def wanted(split: Any, count: int, teacher: str, head: str) -> torch.Tensor:
        if head == "summary":
            return torch.from_numpy(split.summary[teacher][:count]).double()
        return tokens(torch.from_numpy(split.spatial[teacher][:count])).double()

    seen, held = features(targets.train, images), features(targets.val, len(targets.val))
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for strength in STRENGTHS:
        for head, x, z in zip(("summary", "spatial"), seen, held, strict=True):
            mean, deviation = x.mean(0), x.std(0).clamp(min=1e-6)
            x, z = (x - mean) / deviation, (z - mean) / deviation
            gram = x.T @ x + strength * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
            for teacher in targets.teachers:
                y = wanted(targets.train, images, teacher, head)
                held_y = wanted(targets.val, len(targets.val), teacher, head)
                guess = z @ torch.linalg.solve(gram, x.T @ (y - y.mean(0))) + y.mean(0)
                error = (guess - held_y).square().sum() / (held_y - held_y.mean(0)).square().sum()
                scores.setdefault(str(strength), {}).setdefault(teacher, {})[head] = 1 - float(error)
    return scores


def of_heads(found: dict[str, dict[str, float]], *heads: str) -> float:
    """Return the mean over heads and teachers."""
    return float(np.mean([[teacher[head] for head in heads] for teacher in found.values()]))


def of_losses(rung: dict[str, Any], head: str) -> float:
    """Return minus the mean training loss over the last third of the rung."""
    return -float(np.mean([loss for key, loss in rung["losses"].items() if key.endswith(head)]))


SCORES: dict[str, Callable[[dict[str, Any]], float]] = {
    "explained, both heads": lambda rung: of_heads(rung["teachers"], "summary", "spatial"),
    "explained, maps": lambda rung: of_heads(rung["teachers"], "spatial"),
    "explained, summaries": lambda rung: of_heads(rung["teachers"], "summary"),
    "training loss, both": lambda rung: of_losses(rung, ""),
    "training loss, maps": lambda rung: of_losses(rung, "spatial"),
    "ridge, both heads": lambda rung: of_heads(rung["linear"]["0.03"], "summary", "spatial"),
    "ridge, maps": lambda rung: of_heads(rung["linear"]["0.03"], "spatial"),
    "ridge, summaries": lambda rung: of_heads(rung["linear"]["0.03"], "summary"),
}
ADOPTED = "explained, maps"  # the search's score
BOTH = "explained, both heads"  # the score until 2026-11-24
IN_DOCS = {ADOPTED: "the score", "explained, summaries": "the summaries' score"}  # of distillation_score.md


def tau(a: Any, b: Any) -> str:
    """Return Kendall's tau-b as text."""
    return f"{kendalltau(a, b).statistic:.2f}"


def tau_with_interval(a: Any, b: Any) -> str:
    """Return Kendall's tau-b with its interval as text."""
    found = rank_correlation(list(zip(a, b, strict=True)))
    return f"{found.tau:.2f} ({found.low:.2f} to {found.high:.2f})"


def report(rows: list[dict[str, Any]]) -> None:
    """Print the correlations of one recipe and storage."""
    by = {(r["arch"], r["seed"]): r for r in rows}
    seeds = sorted({seed for _, seed in by})
    archs = sorted(a for a in {arch for arch, _ in by} if all((a, seed) in by for seed in seeds))
    first = next(iter(by.values()))
    print("*, in the documentation:", "; ".join(f"{name!r} is {docs!r}" for name, docs in IN_DOCS.items()))
    steps = [rung["steps"] for rung in first["rungs"]]
    print(f"{len(archs)} architectures, seeds {seeds}; Kendall tau of a score after some steps with itself after more")
    scores = {}
    for name, score in SCORES.items():
        if "linear" in first["rungs"][0] or not name.startswith("ridge"):
            scores[name] = np.array(
                [[[score(by[a, s]["rungs"][i]) for a in archs] for i in range(len(steps))] for s in seeds]
            )
            report_score(name, scores[name], steps)
    print(f"probes after {steps[-1]} steps: lowest and highest; tau between seeds, and with scores, one for each seed")
    for metric in sorted(first["metrics"]):
        values = np.array([[by[a, s]["metrics"][metric] for a in archs] for s in seeds])
        agree = [tau(s, t) for s, t in combinations(values, 2)]
        maps, both = (list(zip(scores[name][:, -1], values, strict=True)) for name in (ADOPTED, BOTH))
        with_maps = [tau_with_interval(*pair) for pair in maps]
        with_both = [tau(*pair) for pair in both]
        lowest_to_highest = f"{values.min():.3f} to {values.max():.3f}"
        print(f"{metric:18} {lowest_to_highest}; seeds {agree}; {ADOPTED} {with_maps}; {BOTH} {with_both}")


def report_score(name: str, table: Any, steps: list[int]) -> None:
    """Print how one score, by seed, rung and architecture, agrees with itself between rungs and between seeds."""
    between = tau_with_interval if name == ADOPTED else tau
    label = f"{'* ' if name in IN_DOCS else '  '}{name:22}"
    for i, j in combinations(range(len(steps)), 2):
        same = [between(of_seed[i], of_seed[j]) for of_seed in table]
        other = [between(s[i], t[j]) for s, t in permutations(table, 2)]
        print(f"{label} {steps[i]:>4} -> {steps[j]:<4} same seed {same}, other seed {other}")
    for s, t in combinations(table, 2):
        agree = {step: between(s[i], t[i]) for i, step in enumerate(steps)}
        noise = {step: f"{(s[i] - t[i]).std() / 2**0.5:.4f}" for i, step in enumerate(steps)}
        spread = {step: f"{((s[i] + t[i]) / 2).std():.4f}" for i, step in enumerate(steps)}
        print(f"{label} between seeds at {agree}; deviation of a seed {noise}, of architectures {spread}")


def main() -> None:
    """Run the missing trainings and print the correlations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", default="30,90,270,300")
    parser.add_argument("--recipe", type=json.loads, default={}, help="settings of DistillConfig, as JSON")
    parser.add_argument("--target-dtype", default="int8", help="data type of the cached targets (default: int8)")
    parser.add_argument(
        "--share", type=float, default=0.25, help="share of the teachers' numbers in the cache (default: 0.25)"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "backbone-nas")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="only print the table of existing rows")
    args = parser.parse_args()
    steps = tuple(map(int, args.steps.split(",")))
    rows = json.loads(args.results.read_text()) if args.results.exists() else []

    def mine(row: dict[str, Any]) -> bool:
        same = row["recipe"] == args.recipe and row["stored"] == [args.target_dtype, args.share]
        return same and [rung["steps"] for rung in row["rungs"]] == list(steps)

    done = {(row["arch"], row["seed"]) for row in rows if mine(row)}
    jobs = [
        (arch, seed)
        for seed in range(args.first_seed, args.seeds)
        for arch in range(args.archs)
        if (arch, seed) not in done
    ]
    with ProcessPoolExecutor(args.workers) as pool:
        settings = (steps, args.recipe, (args.target_dtype, args.share), args.cache)
        futures = [pool.submit(run, *job, *settings) for job in jobs if not args.report]
        for future in as_completed(futures):
            rows.append(future.result())
            args.results.write_text(json.dumps(rows))
            print(f"{len(rows)} arch {rows[-1]['arch']} seed {rows[-1]['seed']} {rows[-1]['seconds']} s", flush=True)
    report([row for row in rows if mine(row)])


if __name__ == "__main__":
    main()
