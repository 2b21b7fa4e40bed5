"""Time the loop of `backbone-nas train` against the bare forward, backward and optimizer steps of the same student.

    python -m experiments.benchmarks.training_loop                    six models, a minute and a half each

Both take turns in random A B B A order in one process with one thread, ten steps a turn. The loop reads its batches,
clips, averages the weights, reads the losses and writes its history, TensorBoard's files included. The bare steps have
one batch, read before. A third call is bare but for the averaged weights and the clipping, which are part of the
recipe. The targets are noise in the shapes of the built-in teachers' outputs. The machine must be idle.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from backbones import build_network
from nas.distill.trainer import Distiller
from nas.distill.training_history import History
from nas.measure.interleave import compare
from nas.measure.timers import timer_for
from nas.plan.probe import synthetic_targets
from nas.study.config import DistillConfig, SearchConfig
from nas.train.training_settings import LONG_RECIPE
from search_space import NetworkSpec, TimmSpec, preset

WIDTHS = {"lite0": (1280, 320), "hed": (512, 512), "xfeat": (64, 64)}  # (summary, spatial) of the built-in teachers
ROWS, STEPS = 256, 10
MODELS: dict[str, NetworkSpec] = {
    **{name: preset(name) for name in ("eradio_femto", "eradio_pico", "eradio_nano")},
    **{name: TimmSpec(name) for name in ("mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224")},
}
Call = Callable[[], None]


def loop_of(distiller: Distiller, folder: Path) -> Call:
    """Return some steps of the loop."""
    history = History(folder, distiller)
    return lambda: distiller.train_until(distiller.step + STEPS, lambda: history.add_steps(distiller))


def bare_steps_of(distiller: Distiller, whole_recipe: bool) -> Call:
    """Return as many bare steps of a student of its own, with clipping and averaged weights if `whole_recipe`."""
    batch = distiller._loader[0]
    module, optimizer, parameters = distiller._module, distiller._optimizer, distiller._parameters
    limit = distiller.config.max_grad_norm
    assert limit

    def call() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            total, _ = module(batch)
            total.backward()
            if whole_recipe:
                nn.utils.clip_grad_norm_(parameters, limit)
            optimizer.step()
            if whole_recipe:
                distiller.step += 1
                distiller.update_ema()

    return call


def main() -> None:
    """Print a row for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=45.0, help="of each of the two comparisons (default: 45)")
    parser.add_argument("--out", type=Path, help="JSON file of the rows (default: none)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe = DistillConfig(precision="fp32", rung_steps=(1_000_000,), **LONG_RECIPE)
    targets = synthetic_targets(SearchConfig(distill=recipe), WIDTHS, 0.25, ROWS)
    rng, rows = np.random.default_rng(0), []
    print("| model | ms a step | loop over bare steps | loop over bare steps with clipping and averages |")
    print("|---|--:|--:|--:|")
    for name, spec in MODELS.items():
        students = [Distiller(build_network(spec), targets, recipe, seed=0) for _ in range(3)]
        with tempfile.TemporaryDirectory() as folder:
            loop = loop_of(students[0], Path(folder))
            bare, whole = bare_steps_of(students[1], False), bare_steps_of(students[2], True)
            pairs = [compare(call, loop, timer_for(torch.device("cpu")), args.seconds, rng) for call in (bare, whole)]
        for student in students:
            student.close()
        ms = 1e3 * pairs[0].reference.value / STEPS
        cells = [f"{pair.ratio.value:.3f} ({pair.ratio.low:.3f} to {pair.ratio.high:.3f})" for pair in pairs]
        print(f"| {name} | {ms:.1f} | {' | '.join(cells)} |", flush=True)
        rows.append({"model": name, "ms": ms, "ratios": [[p.ratio.value, p.ratio.low, p.ratio.high] for p in pairs]})
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
