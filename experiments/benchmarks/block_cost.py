"""Time each block of the search space, per MAC, beside ResNet's basic block: inference and a training step.

Command:   python -m experiments.benchmarks.block_cost [--device cuda] [--compile] [--map 14] [--blocks repdw vit]
Hardware:  one CPU core, or one GPU
Time:      some 5 minutes on a core
Expected:  see experiments/LOG.md

Each row is a stage of two blocks on a map of `--map` x `--map` places, timed in random A B B A order against a stage of
basic blocks of the same width. Inference is of the fused stage; a training step is forward and backward, without an
optimizer. A cost of 2 means twice the time of a basic block's MAC.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from backbones.build import build_stage
from backbones.fuse import fuse
from nas.measure.counts.macs import MacCountingMode
from nas.measure.environment import environment
from nas.measure.interleave import compare
from nas.measure.timers import Call, timer_for
from search_space import BLOCKS, StageSpec

DEPTH, REFERENCE = 2, "basic"


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
    missing = BLOCKS.keys() - options.keys()
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


def main(words: Sequence[str] | None = None) -> int:
    """Print a row for each block."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="compile the stages")
    parser.add_argument("--map", type=int, default=14, metavar="PLACES", help="side of the map (default: 14)")
    parser.add_argument("--width", type=int, default=256, help="channels (default: 256)")
    parser.add_argument("--batch", type=int, default=8, help="images (default: 8)")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each comparison (default: 6)")
    parser.add_argument("--blocks", nargs="+", choices=sorted(stages(64, 7)), help="default: all")
    arguments = parser.parse_args(words)
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

    mode = "compiled" if arguments.compile else "eager"
    print(f"{environment(arguments.device)['cpu']}, {arguments.device}, {mode}, map {arguments.map}, batch {len(x)}")
    print("| block | MMACs | inference, time per MAC | training step, time per MAC |\n|---|--:|--:|--:|")
    reference_macs, reference = prepared(REFERENCE)
    for name in arguments.blocks or every:
        macs, calls = prepared(name)
        cells = []
        for kind, call in calls.items():
            ratio, scale = compare(call, reference[kind], timer, arguments.seconds, rng).ratio, reference_macs / macs
            cells.append(f"{scale / ratio.value:.2f} ({scale / ratio.high:.2f} to {scale / ratio.low:.2f})")
        print(f"| {name} | {macs:.0f} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
