"""Parse and check the arguments of ``backbone-nas profile``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from nas.cli import PROGRAM, OneLineParser, whole_numbers
from nas.machine import cache_root, check_cache
from nas.measure.devices import device_type
from nas.measure.runtime_spec import (
    FORMS,
    LAYOUTS,
    Arm,
    check_reported,
    check_runs_here,
    default_arm,
    named_arms,
)
from nas.measure.runtime_traits import PRECISIONS, RUNTIMES
from nas.old_flags import add_batch_size, add_cache, add_choices, add_flag, add_measuring_device
from nas.ranges import BatchSize, MeasureSeconds, Pixels, Range, Seed, Threads, check_values
from nas.study.limits import LIMITS, LimitError, add_limit_flags, given_limits
from search_space import SPACES
from search_space.own_choices import with_choices
from search_space.timm_spec import check_arch

if TYPE_CHECKING:
    import torch

    from nas.profile.profiles import NetworkSettings
    from nas.profile.runtime_comparison import RuntimeSettings
    from nas.profile.space_sample import SpaceRequest

NETWORK_REFERENCE = "timm:resnet18"
# Sizes between the powers of two are included, because throughput has its steps there.
BATCHES = {"cpu": (1, 2, 3, 5, 8, 12, 16, 24, 32), "cuda": (1, 2, 3, 5, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)}
RESOLUTIONS = (64, 96, 128, 192, 224, 256, 320, 384)
SAMPLES = 200
SECONDS, RUNTIME_SECONDS = 30.0, 10.0
SWEPT = ("batch_sizes", "img_sizes", "layers", "top")
SPACE_ONLY = ("choices", "samples", "seed", *LIMITS)
NUMBERS: dict[str, Any] = {
    "batch_size": BatchSize,
    "img_size": Pixels,
    "measure_seconds": MeasureSeconds,
    "threads": Threads,
    "batch_sizes": tuple[BatchSize, ...],
    "img_sizes": tuple[Pixels, ...],
    "top": Annotated[int, Range(1, 1_000_000)],
    "samples": Annotated[int, Range(1, 1_000_000)],
    "seed": Seed,
}
# The options that each kind of profile does not take.
UNUSED = {
    "--arch": SPACE_ONLY,
    "--runtimes": (*SPACE_ONLY, *SWEPT, "runtime", "reference", "new_ceilings"),
    "--space": (*SWEPT, "runtimes", "new_ceilings"),
}

EXAMPLES = """examples:
  backbone-nas profile --arch eradio                        the paper's network at 224 px on this machine's best device
  python -m nas.profile --arch eradio                        the same, where no console script is installed
  backbone-nas profile --arch timm:resnet50 --batch-size 8       a network of timm
  backbone-nas profile --arch eradio --top 10               with the ten slowest layers
  backbone-nas profile --arch eradio_nano --batch-sizes --img-sizes 64,96,128 --plot sweeps.png
  backbone-nas profile --arch eradio_nano --arch eradio_pico --arch timm:mobilenetv3_small_050 --img-size 64
  backbone-nas profile --arch winner/spec.json --json > profile.json      the architecture of an export
  backbone-nas profile --arch eradio --runtime compiled+bf16    with another runtime and precision
  backbone-nas profile --arch eradio_nano --arch timm:resnet18 --img-size 64 --runtimes eager,compiled,onnxruntime
  backbone-nas profile --arch eradio_nano --runtimes fp32,bf16,bf16+nchw,bf16+unfused --plot runtimes.png
  backbone-nas profile --arch eradio_nano --runtimes all        the default runtime and every change of one word
  backbone-nas profile --space laptop --samples 500 --max-params 1e6 --max-gmacs 0.02
  backbone-nas profile --space laptop --measure-seconds 60 --max-latency-ms 5 --plot space.png
  backbone-nas profile --space laptop --choices stages.blocks=mbconv,convnext
"""

_SECONDS = ", of each sweep, of each runtime with --runtimes, and of the whole sample with --space"


@dataclass(frozen=True)
class ProfileCommand:
    """A parsed command line.

    Attributes:
        archs: Presets, timm:NAME or spec files; empty for a space.
        settings: How to profile networks, compare runtimes or sample a space.
        threads: CPU threads; None: PyTorch's default.
        json: Whether to print JSON instead of tables.
        plot: File of the picture; None: no picture.
        layers: Whether to print a table of all layers.
        top: Number of the slowest layers to print; None: no such table.
    """

    archs: tuple[str, ...]
    settings: NetworkSettings | RuntimeSettings | SpaceRequest
    threads: int | None
    json: bool
    plot: Path | None
    layers: bool
    top: int | None


def parse(words: Sequence[str]) -> ProfileCommand:
    """Parse a command line and fill in defaults. Nothing is built yet.

    Args:
        words: Words after the command's name.

    Raises:
        ValueError: Options contradict each other or a value is out of range; the message is one line.
        SystemExit: An option is unknown or malformed; one line was printed.
    """
    options = parser().parse_args(words)
    if bool(options.arch) == bool(options.space):
        raise ValueError("name either --arch or --space (see --help)")
    kind = "--space" if options.space else "--arch" if options.runtimes is None else "--runtimes"
    for name in UNUSED[kind]:
        if getattr(options, name) is not None:
            raise ValueError(f"{_flag(name)}: does not go with {kind}")
    check_values({name: value for name, value in vars(options).items() if value is not None}, NUMBERS)
    for arch in (*(options.arch or ()), *([options.reference] if options.reference else ())):
        check_arch(arch)
    _check_runtimes(options, kind, device_type(options.device))
    if options.space:
        px = _space_px(options)
        with_choices(SPACES[options.space].at(px), options.choices or {}, px)
    check_cache(options.cache)
    from nas.measure import torch_device  # imports torch, which takes seconds: not for --help or a bad flag

    device = torch_device(options.device)
    return ProfileCommand(
        archs=tuple(options.arch or ()),
        settings=SETTINGS[kind](options, device),
        threads=options.threads,
        json=options.json,
        plot=None if options.plot is None else Path(options.plot),
        layers=bool(options.layers),
        top=options.top,
    )


def _network_settings(options: argparse.Namespace, device: torch.device) -> NetworkSettings:
    from nas.profile.profiles import NetworkSettings

    defaults = {"batch": BATCHES[device.type], "resolution": RESOLUTIONS}
    wanted = {"batch": options.batch_sizes, "resolution": options.img_sizes}  # (): the default sizes, None: no sweep
    return NetworkSettings(
        device=device,
        cache=cache_root(options.cache),
        batch=options.batch_size,
        resolution=options.img_size,
        arm=_arm(options, device.type),
        seconds=SECONDS if options.measure_seconds is None else options.measure_seconds,
        reference=options.reference or NETWORK_REFERENCE,
        sweeps={kind: sizes or defaults[kind] for kind, sizes in wanted.items() if sizes is not None},
        new_ceilings=bool(options.new_ceilings),
    )


def _runtime_settings(options: argparse.Namespace, device: torch.device) -> RuntimeSettings:
    from nas.profile.runtime_comparison import RuntimeSettings

    base = default_arm(device.type)
    return RuntimeSettings(
        device=device,
        base=base,
        arms=named_arms(options.runtimes, base),
        batch=options.batch_size,
        resolution=options.img_size,
        seconds=RUNTIME_SECONDS if options.measure_seconds is None else options.measure_seconds,
    )


def _space_request(options: argparse.Namespace, device: torch.device) -> SpaceRequest:
    from nas.profile.network import default_batch
    from nas.profile.space_sample import SpaceRequest

    arm = _arm(options, device.type)
    resolution = _space_px(options)
    return SpaceRequest(
        space=options.space,
        samples=options.samples or SAMPLES,
        seed=options.seed or 0,
        limits=_limits(options, device.type, arm),
        device=device,
        resolution=resolution,
        batch=options.batch_size or default_batch(device, resolution),
        arm=arm,
        seconds=options.measure_seconds,
        reference=options.reference or SPACES[options.space].reference,
        choices=options.choices or {},
    )


def _space_px(options: argparse.Namespace) -> int:
    """Return the size of the images for which the space is sampled."""
    return options.img_size or SPACES[options.space].image_px


def _check_runtimes(options: argparse.Namespace, kind: str, on: str) -> None:
    """Raise ArmError or LimitError, before torch is imported, for runtimes and limits that the device cannot have."""
    if kind == "--runtimes":
        named_arms(options.runtimes, default_arm(on))
        return
    arm = _arm(options, on)
    if kind == "--space":
        _limits(options, on, arm)


def _limits(options: argparse.Namespace, on: str, arm: Arm) -> dict[str, float]:
    limits = given_limits(vars(options))
    for limit in (LIMITS[name] for name in limits):
        if limit.measured and options.measure_seconds is None:
            raise LimitError(f"{limit.flag}: needs timing; set its budget with --measure-seconds")
    check_reported(arm, on, limits)
    return limits


def _arm(options: argparse.Namespace, on: str) -> Arm:
    base = default_arm(on)
    arm = base if options.runtime is None else Arm.parse(options.runtime, base)
    check_runs_here(on, arm.runtime, arm.precision)
    return arm


SETTINGS: dict[str, Callable[[argparse.Namespace, torch.device], NetworkSettings | RuntimeSettings | SpaceRequest]] = {
    "--arch": _network_settings,
    "--runtimes": _runtime_settings,
    "--space": _space_request,
}


def parser() -> OneLineParser:
    """Build the parser. Options of only one kind of profile are None where they are absent."""
    built = OneLineParser(
        prog=f"{PROGRAM} profile",
        usage=f"{PROGRAM} profile (--arch ARCH ... | --space NAME) [OPTION ...]",
        description="Measure the cost of backbones on this machine, stage by stage, or sample a search space.",
        epilog=EXAMPLES,
    )
    add = built.add_argument_group("networks").add_argument
    add("--arch", action="append", help="preset, timm:NAME or a spec's .json file; may be repeated")
    add("--space", choices=list(SPACES), help="profile a sample of this search space instead of --arch")
    add = built.add_argument_group("settings").add_argument
    add_measuring_device(add, default="auto")
    add_batch_size(add, "128 on CUDA; 16 on a CPU up to 128 px, else 4")
    add_flag(add, "--img-size", "64 for specs of the spaces laptop and micro, else 224")
    add_flag(add, "--runtime", _defaults(), more=f"; words: {_words()}")
    seconds = f"{SECONDS:g}; {RUNTIME_SECONDS:g} with --runtimes; a sample is not timed"
    add_flag(add, "--measure-seconds", seconds, more=_SECONDS)
    reference = f"network that each is timed against (default: {NETWORK_REFERENCE}; with --space {_references()})"
    add("--reference", metavar="ARCH", help=reference)
    add_flag(add, "--threads", "one per core")
    ceilings = "measure the roofline's ceilings again (default: measure them once and keep them)"
    add("--new-ceilings", action="store_const", const=True, help=ceilings)
    add_cache(add)
    add_flag(add, "--json", "no")
    add_flag(add, "--plot", "none")
    add = built.add_argument_group("with --arch").add_argument
    sizes: dict[str, Any] = {"nargs": "?", "const": (), "type": whole_numbers, "metavar": "A,B,..."}
    batches = f"batch sizes to sweep; the bare flag sweeps {_joined(BATCHES['cpu'])}, more on CUDA (default: no sweep)"
    add("--batch-sizes", help=batches, **sizes)
    resolutions = f"image sizes in pixels to sweep; the bare flag sweeps {_joined(RESOLUTIONS)} (default: no sweep)"
    add("--img-sizes", help=resolutions, **sizes)
    runtimes = "runtimes to compare, or all; each is timed against the first one (default: no comparison)"
    add("--runtimes", metavar="A,B,...", help=runtimes)
    add("--layers", action="store_const", const=True, help="print a table of all layers, in the order of execution")
    add("--top", type=int, metavar="N", help="print a table of the N slowest layers (default: no table)")
    add = built.add_argument_group("with --space").add_argument
    add_choices(add)
    add("--samples", type=int, metavar="N", help=f"number of specs (default: {SAMPLES})")
    add("--seed", type=int, metavar="N", help="seed of the sample (default: 0)")
    measured = ", ".join(limit.flag for limit in LIMITS.values() if limit.measured)
    about = f"With --space, the share of the sample within the limits is printed. {measured} need --measure-seconds."
    add_limit_flags(built, about)
    return built


def _flag(name: str) -> str:
    return LIMITS[name].flag if name in LIMITS else "--" + name.replace("_", "-")


def _defaults() -> str:
    """Return the default runtime of each kind of device as text."""
    return f"{Arm()} on cpu, {Arm('compiled', 'bf16')} on cuda, or fp16 where the GPU has no bf16"


def _words() -> str:
    return "; ".join(", ".join(words) for words in (RUNTIMES, PRECISIONS, LAYOUTS, FORMS))


def _joined(sizes: Sequence[int]) -> str:
    return ",".join(map(str, sizes))


def _references() -> str:
    """Return the reference of each space, in words: spaces with the same one are named together."""
    spaces: dict[str, list[str]] = {}
    for space in SPACES.values():
        spaces.setdefault(space.reference, []).append(space.name)
    return ", ".join(f"{reference} for {' and '.join(names)}" for reference, names in spaces.items())
