"""Correlate the distillation score with the evaluation tasks of the built-in data, over random architectures.

    python -m experiments.distillation.agreement --archs 40 --again 10 --workers 2
    python -m experiments.distillation.agreement --report

Trains random architectures of space "micro" under the default recipe to its last rung, the first of them with a second
seed too, and evaluates them as a search does. Prints for each metric its chance level, the teachers' and the models'
values, the deviation between seeds, and Kendall's tau of the distillation score with it (95 % interval from a bootstrap
over the architectures). Rows are saved in experiments/results, weights in --work; a killed run continues with both.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from statistics import median, stdev
from typing import Any

import torch

from backbones import build
from backbones.weights import load, save
from nas.analysis.agreement import rank_correlation
from nas.analysis.noise import measured_scatter
from nas.cache import Targets, open_study_targets
from nas.distill.evaluation.explained_variance import explained_variance
from nas.distill.evaluation.reference_scores import chance
from nas.distill.evaluation.tasks import student_metrics, teacher_metrics
from nas.distill.heads import Student, TeacherHeads
from nas.distill.rungs import distillation_score
from nas.distill.trainer import Distiller
from nas.files import atomic_write
from nas.study.config import SearchConfig
from nas.study.metrics import metric_label
from search_space import SPACES

CONFIG = SearchConfig()
DISTILL = replace(CONFIG.distill, precision="fp32")
RESULTS = Path(__file__).parents[1] / "results" / "agreement.json"
NICENESS = 5  # of the workers: other work goes first
Row = dict[str, Any]


def run(arch: int, seed: int, work: Path, cache: Path) -> Row:
    """Return the row of one architecture, which is trained unless `work` holds its weights."""
    torch.set_num_threads(1)
    targets = open_study_targets(CONFIG, cache)
    trained, weights = work / f"{arch}-{seed}.json", work / f"{arch}-{seed}.safetensors"
    if not trained.exists():
        atomic_write(trained, json.dumps(train(arch, seed, targets, weights)))
    backbone = load(weights).eval()
    student = Student(backbone, TeacherHeads(backbone.summary_dim, backbone.spatial_dim, {}, 1, targets.grid))
    began = time.process_time()
    metrics = student_metrics(student, targets, "cpu")
    seconds = round(time.process_time() - began, 2)
    return {**json.loads(trained.read_text()), "metrics": metrics, "evaluation_cpu_s": seconds}


def train(arch: int, seed: int, targets: Targets, weights: Path) -> Row:
    """Train one architecture to the last rung, save its averaged weights, and return its score."""
    spec = SPACES[CONFIG.space].sample(random.Random(arch))
    torch.manual_seed(seed)
    distiller = Distiller(build(spec), targets, DISTILL, seed=seed)
    distiller.train_until(DISTILL.rung_steps[-1])
    distiller.close()
    student = distiller.averaged
    teachers = explained_variance(student, targets.val, "cpu")
    save(student.backbone, weights)  # type: ignore[arg-type]
    score = distillation_score(teachers, DISTILL.score)
    return {"arch": arch, "seed": seed, "arch_id": spec.arch_id, "score": score, "teachers": teachers}


def reference(cache: Path) -> Row:
    """Return the teachers' metrics and the chance levels."""
    targets = open_study_targets(CONFIG, cache, announce=print)
    return {"chance": chance(targets), "teachers": {name: teacher_metrics(targets, name) for name in targets.teachers}}


def report(content: Row) -> None:
    """Print a line for each metric, and one for the score."""
    rows = [row for row in content["rows"] if row["seed"] == 0]
    by_arch: dict[int, list[Row]] = {}
    for row in content["rows"]:
        by_arch.setdefault(row["arch"], []).append(row)

    def line(label: str, of: Any, levels: str) -> None:
        values = [of(row) for row in rows]
        noise = measured_scatter([[of(row) for row in same] for same in by_arch.values()])
        tau = rank_correlation([(row["score"], value) for row, value in zip(rows, values, strict=True)])
        shown = (
            f"{tau.tau:.2f} ({tau.low:.2f} to {tau.high:.2f})" if tau.tau is not None and tau.low is not None else "-"
        )
        between = "-" if noise is None else f"{noise.sd:.4f}"
        models = f"{min(values):.3f} to {max(values):.3f}, median {median(values):.3f}"
        spread = f"deviation of seeds {between}, of models {stdev(values):.4f}"
        print(f"{label:22} {levels:48} models {models}; {spread}; tau {shown}")

    print(f"{len(rows)} architectures, {sum(len(same) > 1 for same in by_arch.values())} of them with a second seed")
    line("distillation score", lambda row: row["score"], "")
    for name in rows[0]["metrics"]:
        teachers = ", ".join(f"{t} {m[name]:.3f}" for t, m in content["teachers"].items() if name in m)
        level = content["chance"].get(name, content["chance"].get(name.partition("/")[0]))
        line(metric_label(name), lambda row, name=name: row["metrics"][name], f"chance {level:.3f}; {teachers}")
    print(f"evaluation of a model: {median(row['evaluation_cpu_s'] for row in rows):.1f} CPU seconds")


def main() -> None:
    """Run the missing trainings and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", type=int, default=40, help="architectures (default: 40)")
    parser.add_argument("--again", type=int, default=10, help="how many of them get a second seed (default: 10)")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each (default: 2)")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "backbone-nas")
    parser.add_argument("--work", type=Path, default=Path("runs/agreement"), help="weights (default: runs/agreement)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="only print the table of existing rows")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    content = json.loads(args.results.read_text()) if args.results.exists() else {"rows": []}
    if not args.report:
        content |= reference(args.cache)
        done = {(row["arch"], row["seed"]) for row in content["rows"]}
        half = args.archs // 2
        jobs = [*((a, 0) for a in range(half)), *((a, 1) for a in range(args.again))]
        jobs += [(a, 0) for a in range(half, args.archs)]
        with ProcessPoolExecutor(args.workers, initializer=os.nice, initargs=(NICENESS,)) as pool:
            futures = [pool.submit(run, *job, args.work, args.cache) for job in jobs if job not in done]
            for future in as_completed(futures):
                row = future.result()
                content["rows"] = sorted([*content["rows"], row], key=lambda r: (r["seed"], r["arch"]))
                atomic_write(args.results, json.dumps(content, indent=1))
                print(f"{len(content['rows'])} rows; arch {row['arch']} seed {row['seed']}", flush=True)
    report(content)


if __name__ == "__main__":
    main()
