"""Parse and check the arguments of ``backbone-nas doctor``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.cli import PROGRAM, OneLineParser, comma_list
from nas.measure.runtime_spec import Arm
from nas.old_flags import add_batch_size, add_cache, add_flag, add_measuring_device
from nas.ranges import BatchSize, MeasureSeconds, Pixels, check_fields

# E-RADIO's family and the networks that its paper and this project compare it with, those of timm with random weights.
ARCHS = (
    *("eradio_l", "eradio_b", "eradio_s", "eradio_t", "eradio_xt", "eradio_xxxtiny"),
    *("timm:resnet50", "timm:convnext_base", "timm:swinv2_small_window8_256", "timm:maxvit_base_tf_224"),
    *("timm:vit_base_patch16_224", "timm:levit_384"),
)
RUNTIMES = ("eager+bf16", "compiled+bf16")
RUN = "runs"

_EXAMPLES = f"""examples:
  {PROGRAM} doctor                            what this machine has, and what will not work on it
  {PROGRAM} doctor --json > machine.json
  {PROGRAM} doctor --gpu                      test and measure a GPU, about an hour; the same command continues
  {PROGRAM} doctor --gpu --device cpu --batch-size 2 --img-size 64 --archs eradio_pico --runtimes eager
"""


@dataclass(frozen=True)
class BenchmarkSettings:
    """What ``--gpu`` measures.

    Attributes:
        device: "auto", "cpu", "cuda" or "cuda:N".
        archs: Presets, timm:NAME or spec files.
        runtimes: Runtimes in which each is measured.
        batch_size: Images a call.
        img_size: Side of the images in px.
        measure_seconds: Longest timing of a network in a runtime.
        out: File of the results; None: named after the GPU, in the current folder.

    Raises:
        ConfigError: A number is out of its range.
    """

    device: str = "auto"
    archs: tuple[str, ...] = ARCHS
    runtimes: tuple[Arm, ...] = tuple(Arm.parse(words) for words in RUNTIMES)
    batch_size: BatchSize = 128
    img_size: Pixels = 224
    measure_seconds: MeasureSeconds = 5.0
    out: Path | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class DoctorSettings:
    """What a user asks of ``backbone-nas doctor``.

    Attributes:
        run: Folder of runs, whose disk is looked at.
        cache: Cache folder; None for the user's own.
        json: Whether to print JSON instead of lines.
        benchmark: What to measure; None: nothing.
    """

    run: Path = Path(RUN)
    cache: str | None = None
    json: bool = False
    benchmark: BenchmarkSettings | None = None


def parse(words: Sequence[str]) -> DoctorSettings:
    """Parse a command line.

    Raises:
        ValueError: A value is out of its range, or an option goes with --gpu only.
        SystemExit: An option is unknown or malformed; one line was printed.
    """
    options: dict[str, Any] = vars(parser().parse_args(words))
    with_gpu = {name: options.pop(name) for name in BenchmarkSettings.__dataclass_fields__ if name in options}
    if not options.pop("gpu", False):
        if with_gpu:
            raise ValueError(f"--{next(iter(with_gpu)).replace('_', '-')}: goes with --gpu only")
        return DoctorSettings(**options)
    return DoctorSettings(**options, benchmark=BenchmarkSettings(**with_gpu))


def parser() -> OneLineParser:
    """Build the parser. An absent flag has no entry in the namespace."""
    built = OneLineParser(
        prog=f"{PROGRAM} doctor",
        description="Check this machine: its hardware and software, what will not work, and how to fix it. Nothing is "
        "changed. The exit code is 0 if a search with the default settings can run here, else 1.",
        epilog=_EXAMPLES,
        argument_default=argparse.SUPPRESS,
    )
    add = built.add_argument
    run = f"run folder that a search would use; its disk is checked (default: {RUN})"
    add("--run", type=Path, metavar="DIR", help=run)
    add_cache(add)
    add_flag(add, "--json", "no")
    gpu = (
        "run the tests that need a GPU, measure a set of networks, and write the results to a file that you can attach "
        "to an issue: it has no host name, user name or path (default: only check the machine)"
    )
    add("--gpu", action="store_true", help=gpu)
    add = built.add_argument_group("with --gpu").add_argument
    add_measuring_device(add)
    add("--archs", type=comma_list, metavar="A,B", help=f"networks to measure (default: {','.join(ARCHS)})")
    runtimes = f"runtimes to measure each network in (default: {','.join(RUNTIMES)})"
    add("--runtimes", type=_runtimes, metavar="A,B", help=runtimes)
    defaults = BenchmarkSettings()
    add_batch_size(add, str(defaults.batch_size))
    add_flag(add, "--img-size", str(defaults.img_size))
    add_flag(add, "--measure-seconds", f"{defaults.measure_seconds:g}")
    out = "file of the results, in which finished measurements are kept (default: doctor-GPU.json, by the GPU's name)"
    add("--out", type=Path, metavar="FILE", help=out)
    return built


def _runtimes(text: str) -> tuple[Arm, ...]:
    try:
        return tuple(Arm.parse(words) for words in comma_list(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("runtime: ")) from None
