"""Time training steps of ten models in two or more versions of the code, which take turns in processes of their own.

    git worktree add /tmp/before 64ae849
    python -m experiments.benchmarks.training_step --before /tmp/before

The models are the E-RADIO presets for 64 px and random ones of the space "micro"; the recipe is the default one in fp32
(`--precision`), with one thread. The targets are noise in the shapes of the built-in teachers' outputs. A turn trains a
few steps of one model in one version, then in the next; which version begins changes. The clocks are the step's wall
time and the CPU time of its thread, which other work on the machine disturbs less. Page faults are counted, and the
losses of the first steps are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

ROOT = Path(__file__).parents[2]
PRESETS = ("eradio_femto", "eradio_pico", "eradio_nano")
WIDTHS = {"lite0": (1280, 320), "hed": (512, 512), "xfeat": (64, 64)}  # (summary, spatial) of the built-in teachers
ROWS, WARM_UP, COMPARED = 256, 3, 10


def serve() -> None:
    """Answer each line of standard input, a model's name or a spec, by the figures of a few of its steps."""
    import torch

    from backbones import build
    from nas.distill.trainer import Distiller
    from nas.plan.probe import synthetic_targets
    from nas.study.config import DistillConfig, SearchConfig
    from search_space import ArchSpec

    torch.set_num_threads(1)
    settings = json.loads(sys.stdin.readline())
    config = SearchConfig(distill=DistillConfig(precision=settings["precision"]))
    targets = synthetic_targets(config, WIDTHS, 0.25, ROWS)
    distillers: dict[str, Any] = {}
    for line in sys.stdin:
        spec, steps = json.loads(line)
        key = json.dumps(spec)
        if key not in distillers:
            torch.manual_seed(0)
            distillers[key] = Distiller(build(ArchSpec.from_dict(spec)), targets, config.distill, seed=0)
            distillers[key].train_until(COMPARED)
        distiller = distillers[key]
        distiller.train_until(distiller.step + 1)  # its data is back in the caches, and batches are read ahead
        walls, cpus = [], []
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(steps):
            wall, cpu = time.perf_counter(), time.thread_time()
            distiller.train_until(distiller.step + 1)
            walls.append(1e3 * (time.perf_counter() - wall))
            cpus.append(1e3 * (time.thread_time() - cpu))
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        losses = [sum(values.values()) for values in distiller.losses[:COMPARED]]
        print(json.dumps({"wall": walls, "cpu": cpus, "faults": faults / steps, "losses": losses}), flush=True)


class Version:
    """One version of the code in a process of its own.

    Args:
        tree: the folder of the code.
        precision: of the trainings.
        variables: of the environment.
    """

    def __init__(self, tree: Path, precision: str, variables: Mapping[str, str]) -> None:
        environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", **variables}
        command = [sys.executable, "-P", __file__, "--serve"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=tree
        )
        self._ask({"precision": precision})

    def steps(self, spec: Mapping[str, Any], steps: int) -> dict[str, Any]:
        """Return the times of some steps of a model."""
        self._ask((spec, steps))
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self._process.args} has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, message: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()


def compare(
    versions: Mapping[str, Version], models: Mapping[str, Mapping[str, Any]], rounds: int, steps: int
) -> list[dict[str, Any]]:
    """Return a row for each model: milliseconds, page faults and the largest difference of losses, by version."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {m: {v: [] for v in versions} for m in models}
    for number in range(rounds):
        for model, spec in models.items():
            for version in sorted(versions, reverse=bool(number % 2)):
                found[model][version].append(versions[version].steps(spec, steps))
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return [row(model, models[model], answers) for model, answers in found.items()]


def row(model: str, spec: Mapping[str, Any], answers: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the figures of one model."""
    first = next(iter(answers.values()))[0]["losses"]
    figures = {}
    for version, turns in answers.items():
        walls, cpus = ([ms for turn in turns for ms in turn[kind]] for kind in ("wall", "cpu"))
        losses = turns[0]["losses"]
        figures[version] = {
            "wall_ms": {"min": round(min(walls), 2), "median": round(median(walls), 2)},
            "cpu_ms": {"min": round(min(cpus), 2), "median": round(median(cpus), 2)},
            "faults": round(median(turn["faults"] for turn in turns), 1),
            "loss_difference": max(abs(a - b) / abs(b) for a, b in zip(losses, first, strict=True)),
        }
    return {"model": model, "blocks": [stage["block"] for stage in spec["stages"]], "versions": figures}


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table, and the mean ratios to the first version."""
    base, *others = rows[0]["versions"]
    for line in rows:
        before = line["versions"][base]
        text = f"{line['model']:>13} {base} {before['cpu_ms']['min']:6.1f} / {before['cpu_ms']['median']:6.1f}"
        for name in others:
            now = line["versions"][name]
            ratios = [now["cpu_ms"][kind] / before["cpu_ms"][kind] for kind in ("min", "median")]
            text += f" | {name} {now['cpu_ms']['min']:6.1f} / {now['cpu_ms']['median']:6.1f}"
            text += f" = {ratios[0]:.2f}, {ratios[1]:.2f}"
            text += f"; faults {now['faults']:.0f}, losses differ by {now['loss_difference']:.0e}"
        print(text)
    for name in others:
        for clock in ("cpu_ms", "wall_ms"):
            for kind in ("min", "median"):
                ratios = [r["versions"][name][clock][kind] / r["versions"][base][clock][kind] for r in rows]
                print(f"{name} over {base}, {clock} {kind}: {geometric_mean(ratios):.3f} (geometric mean)")


def main() -> None:
    """Compare the versions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, action="append", help="folder of another version; may be repeated")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each model and version (default: 8)")
    parser.add_argument("--steps", type=int, default=5, help="steps of a turn (default: 5)")
    parser.add_argument("--random", type=int, default=7, help="random models (default: 7)")
    parser.add_argument("--precision", default="fp32", help="fp32 or bf16 (default: fp32)")
    parser.add_argument("--out", type=Path, help="JSON file of the rows (default: none)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve()
        return
    from nas.measure.allocator import MALLOC_SETTINGS
    from search_space import SPACES, preset

    rng = random.Random(0)
    models = {name: preset(name).to_dict() for name in PRESETS}
    models |= {f"random {i}": SPACES["micro"].sample(rng).to_dict() for i in range(args.random)}
    trees = {tree.name: tree.resolve() for tree in args.before or ()} | {"now": ROOT}
    versions = {name: Version(tree, args.precision, MALLOC_SETTINGS) for name, tree in trees.items()}
    try:
        rows = compare(versions, models, args.rounds, args.steps)
    finally:
        for version in versions.values():
            version.close()
    show(rows)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
