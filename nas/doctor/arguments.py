"""Parse and check the arguments of ``backbone-nas doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from nas.cli import PROGRAM, OneLineParser
from nas.flags import MEASURING_DEVICE, add_flag, add_flags, parser_of, shared
from nas.measure.runtime_spec import Arm
from nas.validation import BatchSize, ConfigError, Flag, MeasureSeconds, Pixels, checked, declared, spelled

# E-RADIO's family and the networks that its paper and this project compare it with, those of timm with random weights.
ARCHS = (
    *("eradio_l", "eradio_b", "eradio_s", "eradio_t", "eradio_xt", "eradio_xxxtiny"),
    *("timm:resnet50", "timm:convnext_base", "timm:swinv2_small_window8_256", "timm:maxvit_base_tf_224"),
    *("timm:vit_base_patch16_224", "timm:levit_384"),
)

_EXAMPLES = f"""examples:
  {PROGRAM} doctor                            what this machine has, and what will not work on it
  {PROGRAM} doctor --json > machine.json
  {PROGRAM} doctor --gpu                      test and measure a GPU, about an hour; the same command continues
  {PROGRAM} doctor --gpu --device cpu --batch-size 2 --img-size 64 --archs eradio_pico --runtimes eager
"""


def _arm(words: object) -> object:
    return Arm.parse(words) if isinstance(words, str) else words


@checked
@dataclass(frozen=True)
class BenchmarkSettings:
    """What ``--gpu`` measures."""

    device: Annotated[str, MEASURING_DEVICE] = "auto"
    archs: Annotated[tuple[str, ...], Flag("networks to measure", "A,B")] = ARCHS
    runtimes: Annotated[
        tuple[Annotated[Arm, BeforeValidator(_arm)], ...],
        Flag("runtimes to measure each network in", "A,B", "eager+bf16,compiled+bf16"),
    ] = (Arm("eager", "bf16"), Arm("compiled", "bf16"))
    batch_size: Annotated[BatchSize, shared("batch_size")] = 128
    img_size: Annotated[Pixels, shared("img_size")] = 224
    measure_seconds: Annotated[MeasureSeconds, shared("measure_seconds")] = 5.0
    out: Annotated[
        Path | None,
        Flag(
            "file of the results, in which finished measurements are kept", "FILE", "doctor-GPU.json, by the GPU's name"
        ),
    ] = None


@checked
@dataclass(frozen=True)
class DoctorSettings:
    """What a user asks of ``backbone-nas doctor``; without `benchmark`, nothing is measured."""

    run: Annotated[Path, Flag("run folder that a search would use; its disk is checked", "DIR")] = Path("runs")
    cache: Annotated[str | None, shared("cache")] = None
    json: Annotated[bool, shared("json")] = False
    benchmark: BenchmarkSettings | None = None


def parse(words: Sequence[str]) -> DoctorSettings:
    """Return the settings of a command line; SystemExit(2) or ConfigError, one line, where it is wrong."""
    options = vars(parser().parse_args(words))
    measured = {name: options.pop(name) for name in declared(BenchmarkSettings) if name in options}
    gpu = options.pop("gpu", False)
    if measured and not gpu:
        raise ConfigError(f"{spelled(BenchmarkSettings, next(iter(measured)))}: goes with --gpu only")
    return DoctorSettings(**options, benchmark=BenchmarkSettings(**measured) if gpu else None)


def parser() -> OneLineParser:
    """Build the parser."""
    about = (
        "Check this machine: its hardware and software, what will not work, and how to fix it. Nothing is changed. "
        "The exit code is 0 if a search with the default settings can run here, else 1."
    )
    built = parser_of(DoctorSettings, "doctor", about, _EXAMPLES)
    gpu = Flag(
        "run the tests that need a GPU, measure a set of networks, and write the results to a file that you can attach "
        "to an issue: it has no host name, user name or path",
        default="only check the machine",
    )
    add_flag(built, "gpu", bool, gpu)
    add_flags(built.add_argument_group("with --gpu"), BenchmarkSettings)
    return built
