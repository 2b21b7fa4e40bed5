"""Time each block of the search space, per MAC, beside ResNet's basic block: inference and a training step.

Command:   python -m experiments.benchmarks.block_cost [--device cuda] [--compile] [--map 14] [--blocks repdw vit]
           python -m experiments.benchmarks.block_cost --report
Hardware:  one CPU core, or one GPU
Time:      some 5 minutes on a core; compiling adds 10 minutes
Expected:  docs/results/index.md

Each row is a stage of two blocks on a map of `--map` x `--map` places, timed in random A B B A order against a stage of
basic blocks of the same width. Inference is of the fused stage; a training step is forward and backward, without an
optimizer. A cost of 2 means twice the time of a basic block's MAC. `--save` keeps the rows in
experiments/results/block_cost.json, in place of earlier ones of the same setting; `--report` prints all of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import Tensor, nn

from backbones.build import build_stage
from backbones.fuse import fuse
from experiments.distillation.parallel import load_rows, save_rows
from nas.measure.counts.macs import MacCountingMode
from nas.measure.environment import device_kind
from nas.measure.interleave import compare
from nas.measure.timers import Call, timer_for
from search_space import BLOCK_FIELDS, StageSpec

DEPTH, REFERENCE = 2, "basic"
RESULTS = Path(__file__).parents[1] / "results" / "block_cost.json"
SETTING = ("hardware", "device", "mode", "map", "width", "batch")  # costs are comparable within one
KINDS = ("inference", "training")


def stages(width: int, side: int) -> dict[str, StageSpec]:
    """Return a stage of each block, with the options that its presets have, and "vit" also with ViTDet's windows."""
    window = 7 if side % 7 == 0 else 4
    heads = {"expansion": 4.0, "heads": width // 32}
    windowed = {**heads, "window": window, "cpb_hidden": 512, "pre_conv": "none", "subsampling": "conv"}
    options = {
        "c2f": {"expansion": 0.5},
        "light_c2f": {"expansion": 0.5},
        "basic": {"expansion": 1.0},
        "bottleneck": {"expansion": 1.0, "group_width": 16},
        "mbconv": {"expansion": 4.0},
        "fused_mbconv": {"expansion": 4.0},
        "convnext": {"expansion": 4.0},
        "repdw": {"expansion": 2.0},
        "pool": {"expansion": 4.0},
        "window": windowed,
        "mr_window": {**windowed, "window": window if side == window else window // 2 or 1},
        "attention": {**heads, "pre_conv": "none"},
        "linear_attention": heads,
        "single_head": {"expansion": 2.0, "key_width": 16},
        "bn_attention": {"expansion": 2.0, "heads": width // 64, "key_width": 32, "grid": side},
        "swin": {**heads, "window": window},
        "maxvit": {**heads, "window": window},
        "carrier": windowed,
        "vit": {**heads, "grid": side},
    }
    missing = BLOCK_FIELDS.keys() - options.keys()
    assert not missing, f"no options for the blocks {sorted(missing)}"
    found = {block: StageSpec(block, DEPTH, width, **fields) for block, fields in options.items()}  # type: ignore[arg-type]
    # One layer with windows, one without.
    found["vit_windows"] = replace(found["vit"], window=window, global_every=DEPTH, registers=4)
    return found


def inference(stage: nn.Module, x: Tensor) -> Call:
    """Return a call that runs the stage."""

    def call() -> object:
        with torch.inference_mode():
            return stage(x)

    return call


def training(stage: nn.Module, x: Tensor) -> Call:
    """Return a call that runs a stage forward and backward."""
    x = x.detach().requires_grad_()
    grad = torch.randn_like(x)

    def call() -> object:
        for parameter in stage.parameters():
            parameter.grad = None
        x.grad = None
        stage(x).backward(grad)
        return x.grad

    return call


def macs_of(stage: nn.Module, x: Tensor) -> int:
    """Return the MACs of one call in eval mode."""
    with torch.inference_mode(), MacCountingMode() as mode:
        stage(x)
    return mode.macs


def setting_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what rows have in common whose costs can be compared."""
    return tuple(row[name] for name in SETTING)


def cells(row: dict[str, Any]) -> str:
    """Return a row of the printed table: the cost of each kind, and its 95 % interval."""
    costs = (f"{cost:.2f} ({low:.2f} to {high:.2f})" for cost, low, high in (row[kind] for kind in KINDS))
    return f"| {row['block']} | {row['mmacs']:.0f} | {' | '.join(costs)} |"


def heading(row: dict[str, Any]) -> str:
    """Return the heading of the rows of one setting."""
    place = f"map {row['map']}, {row['width']} channels, batch {row['batch']}"
    columns = "| block | MMACs | inference, time per MAC | training step, time per MAC |\n|---|--:|--:|--:|"
    return f"{row['hardware']}, {row['device']}, {row['mode']}, {place}\n{columns}"


def report() -> None:
    """Print the saved rows, setting by setting."""
    rows = load_rows(RESULTS)
    for setting in dict.fromkeys(map(setting_of, rows)):
        of = [row for row in rows if setting_of(row) == setting]
        print(heading(of[0]), *map(cells, of), "", sep="\n")
    pairs = [(setting_of({**row, "mode": ""}), row) for row in rows]
    for setting in dict.fromkeys(setting for setting, _ in pairs):
        of = [row for its, row in pairs if its == setting]
        for kind in KINDS:
            eager, compiled = ({r["block"]: r[kind][0] for r in of if r["mode"] == m} for m in ("eager", "compiled"))
            both = [block for block in eager if block in compiled]
            if len(both) > 1:
                tau = kendalltau([eager[block] for block in both], [compiled[block] for block in both]).statistic
                change = max(abs(compiled[block] / eager[block] - 1) for block in both)
                print(f"map {of[0]['map']}, {kind}: tau of eager and compiled {tau:.2f}, largest change {change:.0%}")


def save(row: dict[str, Any]) -> None:
    """Keep a row, in place of an earlier one of its setting and block."""
    kept = {(setting_of(each), each["block"]): each for each in [*load_rows(RESULTS), row]}
    save_rows(RESULTS, list(kept.values()))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    found.add_argument("--compile", action="store_true", help="compile the stages")
    found.add_argument("--map", type=int, default=14, metavar="PLACES", help="side of the map (default: 14)")
    found.add_argument("--width", type=int, default=256, help="channels (default: 256)")
    found.add_argument("--batch", type=int, default=8, help="images (default: 8)")
    found.add_argument("--seconds", type=float, default=6.0, help="for each comparison (default: 6)")
    found.add_argument("--blocks", nargs="+", choices=sorted(stages(64, 7)), help="default: all")
    found.add_argument("--save", action="store_true", help="keep the rows in experiments/results")
    found.add_argument("--report", action="store_true", help="print the saved rows and measure nothing")
    return found


def measure(arguments: argparse.Namespace) -> None:
    """Time the blocks; print and, where asked, save the row of each as it comes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # All stages share one `forward`; after 8 graphs of it Dynamo would run the others eagerly, and only log it.
    torch._dynamo.config.recompile_limit = 1000
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    timer, rng = timer_for(torch.device(arguments.device)), np.random.default_rng(0)
    x = torch.randn(arguments.batch, arguments.width, arguments.map, arguments.map, device=arguments.device)
    x = x.contiguous(memory_format=torch.channels_last)
    every = stages(arguments.width, arguments.map)

    def prepared(name: str) -> tuple[float, dict[str, Call]]:
        stage = build_stage(every[name]).to(arguments.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        fused = fuse(stage.eval())
        make: Callable[[nn.Module], nn.Module] = torch.compile if arguments.compile else (lambda module: module)  # type: ignore[assignment]
        macs = macs_of(fused, x) / 1e6
        return macs, {"inference": inference(make(fused), x), "training": training(make(stage.train()), x)}

    place = {"map": arguments.map, "width": arguments.width, "batch": arguments.batch}
    mode = "compiled" if arguments.compile else "eager"
    setting = {"hardware": device_kind(arguments.device), "device": arguments.device, "mode": mode, **place}
    print(heading(setting))
    reference_macs, reference = prepared(REFERENCE)
    for name in arguments.blocks or every:
        macs, calls = prepared(name)
        row: dict[str, Any] = {**setting, "block": name, "mmacs": round(macs, 1)}
        for kind, call in calls.items():
            ratio, scale = compare(call, reference[kind], timer, arguments.seconds, rng).ratio, reference_macs / macs
            row[kind] = [round(scale / value, 3) for value in (ratio.value, ratio.high, ratio.low)]
        print(cells(row), flush=True)
        if arguments.save:
            save(row)


def main(words: Sequence[str] | None = None) -> int:
    """Print a row for each block."""
    arguments = parser().parse_args(words)
    if arguments.report:
        report()
        return 0
    measure(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
