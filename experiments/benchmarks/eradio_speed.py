"""Time this E-RADIO against a straight port of it: the same function, interleaved in one process.

Command:   python -m experiments.benchmarks.eradio_speed
Hardware:  two CPU cores with nothing else on them (with other load threads wait for each other; OMP_WAIT_POLICY=passive
           helps); `--device cuda` for the row of a GPU
Time:      15 minutes on the CPU: a row takes 60 s, but for the training of 64 images, whose steps take 10 to 20 s
Expected:  deploy form of xxxtiny_8x_ws16 at 256 px: fp32 3x at batch 8 and 1.5x at batch 1, bf16 6x at batch 8;
           training step of xxxtiny at 64 px, batch 64: 1.5x. With windows of 2 training is a tie: there nearly all time
           goes into convolutions and products that both have. Results: experiments/LOG.md.

The port (tests/backbones/straight_port.py) is what a reader of the paper would write: NCHW, attention weights in the
open, BatchNorm folded and the position bias kept for deployment. Both get the same weights and NCHW images and return
summary and dense map; their outputs are compared before any timing.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backbones import Backbone, eradio_from_public, fuse
from nas.measure.arms import torch_dtype
from nas.measure.environment import device_name, torch_device
from nas.measure.interleave import InterleavedSamples, compare
from nas.measure.timers import Call, timer_for
from tests.backbones.straight_port import StraightPort

THREADS = 2
BUFFERS = 3  # rotated inputs
TOLERANCE = 1e-4  # of the largest value, fp32: the port sums in another order

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]


def xxxtiny(window: int) -> dict[str, Any]:
    """Return preset eradio_xxxtiny as arguments of the original's constructor."""
    return {
        "depths": [1, 3, 4, 5],
        "num_heads": [2, 4, 8, 16],
        "window_size": [None, None, [window, window], window],
        "sr_ratio": [1, 1, [2, 1], 1],
        "dim": 32,
        "in_dim": 32,
        "conv_base": True,
        "use_neck": True,
        "full_features_head_dim": 256,
        "neck_start_stage": 2,
    }


XXXTINY_8X_WS16 = xxxtiny(16) | {
    "conv_base": False,
    "conv_groups_ratio": 1,
    "cpb_mlp_hidden": 64,
    "neck_start_stage": 1,
}


@dataclass(frozen=True)
class Case:
    """One row: a model, its setting, and the targeted speedup over the port."""

    config: Mapping[str, Any]
    resolution: int
    batch: int
    precision: str
    target: float | None
    training: bool = False
    compiled: bool = False


CASES = {
    "cpu": {
        "deploy-fp32": Case(XXXTINY_8X_WS16, 256, 8, "fp32", 3),
        "deploy-fp32-one": Case(XXXTINY_8X_WS16, 256, 1, "fp32", 1.5),
        "deploy-bf16": Case(XXXTINY_8X_WS16, 256, 8, "bf16", 6),
        "deploy-bf16-one": Case(XXXTINY_8X_WS16, 256, 1, "bf16", 1.5),
        # Windows of 16 stretch the 4 x 4 map of 64 px to 32 x 32; windows of 2 are what `change_resolution` takes.
        "train-fp32": Case(xxxtiny(16), 64, 64, "fp32", 1.5, training=True),
        # Without bf16 instructions a step of 64 images takes minutes.
        "train-bf16": Case(xxxtiny(16), 64, 4, "bf16", 1.5, training=True),
        "train-fp32-ws2": Case(xxxtiny(2), 64, 64, "fp32", 1.5, training=True),
        "train-bf16-ws2": Case(xxxtiny(2), 64, 64, "bf16", 1.5, training=True),
    },
    "cuda": {"deploy-bf16": Case(XXXTINY_8X_WS16, 256, 128, "bf16", None, compiled=True)},
}


def networks(case: Case) -> tuple[Backbone, StraightPort]:
    """Return our model and the port with the same random weights, in fp32; in deploy form except for training."""
    torch.manual_seed(0)
    port = StraightPort(case.config)
    ours = eradio_from_public(case.config, port.state_dict())
    if case.training:
        return ours.train(), port.train()
    return fuse(ours), port.deploy()


def port_encode(port: StraightPort) -> Encode:
    """Return a function like `Backbone.encode`: pooled features (B, C) and the neck's map (B, C', H', W')."""

    def encode(images: Tensor) -> tuple[Tensor, Tensor]:
        out = port(images)
        return out["pooled"], out["neck"]

    return encode


def inference(encode: Encode, images: list[Tensor]) -> Call:
    """Return a call that encodes the next batch."""
    turn = itertools.cycle(images)

    def call() -> object:
        with torch.inference_mode():
            return encode(next(turn))

    return call


def training(model: nn.Module, encode: Encode, images: list[Tensor], precision: str) -> Call:
    """Return a call that runs the next batch forward and backward; bf16 by autocast."""
    turn = itertools.cycle(images)

    def call() -> None:
        model.zero_grad(set_to_none=True)
        x = next(turn)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = sum(y.float().square().mean() for y in encode(x))
        loss.backward()  # type: ignore[union-attr]

    return call


def check(ours: Encode, port: Encode, images: Tensor) -> None:
    """Raise ArithmeticError where the two are not the same function."""
    with torch.no_grad():
        for actual, expected in zip(ours(images), port(images), strict=True):
            error = float((actual - expected).abs().max() / expected.abs().max())
            if not error < TOLERANCE:
                raise ArithmeticError(f"outputs differ by {error:.1e} of the largest value")


def measure(case: Case, device: torch.device, budget_s: float) -> InterleavedSamples:
    """Check, then time both models for about `budget_s` seconds."""
    ours, port = networks(case)
    generator = torch.Generator().manual_seed(0)
    shape = (case.batch, 3, case.resolution, case.resolution)
    images = [torch.randn(shape, generator=generator) for _ in range(BUFFERS)]
    check(ours.encode, port_encode(port), images[0][:2])
    dtype = torch.float32 if case.training else torch_dtype(case.precision)
    images = [x.to(device, dtype) for x in images]
    ours, port = ours.to(device, dtype), port.to(device, dtype)
    if case.training:
        calls = [training(m, e, images, case.precision) for m, e in ((ours, ours.encode), (port, port_encode(port)))]
    else:
        our_encode = torch.compile(ours.encode) if case.compiled else ours.encode
        calls = [inference(e, images) for e in (our_encode, port_encode(port))]
    return compare(calls[0], calls[1], timer_for(device), budget_s, np.random.default_rng(0))


def row(name: str, case: Case, result: InterleavedSamples) -> str:
    """Return a line of the table: milliseconds of both, ratio with its 95 % interval, target."""
    target = "-" if case.target is None else f"{case.target:g}"
    ratio = f"{result.ratio.value:.2f} [{result.ratio.low:.2f}, {result.ratio.high:.2f}]"
    times = f"{result.candidate.value * 1e3:9.1f} {result.reference.value * 1e3:9.1f}"
    return f"{name:16} {case.batch:5} {times}  {ratio:22} {target:>6} {result.candidate_s.size:8}"


def main() -> None:
    """Print one row per case."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=sorted(CASES), default="cpu")
    parser.add_argument("--budget-s", type=float, default=60.0, help="seconds of timing per row")
    parser.add_argument("cases", nargs="*", help="names of rows; default all")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    device, cases = torch_device(args.device), CASES[args.device]
    unknown = sorted(set(args.cases) - set(cases))
    if unknown:
        parser.error(f"cases: no row {unknown[0]!r}; choose from {', '.join(cases)}")
    print(f"{device_name(device)}; torch {torch.__version__}")
    print(f"{'row':16} {'batch':>5} {'ours ms':>9} {'port ms':>9}  {'ratio, 95 %':22} {'target':>6} {'samples':>8}")
    for name in args.cases or cases:
        print(row(name, cases[name], measure(cases[name], device, args.budget_s)), flush=True)


if __name__ == "__main__":
    main()
