"""Parse the arguments of ``nas.profile`` and check them before anything is built."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nas.cli import OneLineParser, cache_root, picture_file
from nas.measure import Arm, default_arm, torch_device
from nas.measure.arms import FORMS, LAYOUTS, PRECISIONS, RUNTIMES
from nas.profile.network import default_batch
from nas.profile.profiles import NetworkSettings
from nas.profile.runtime_comparison import RuntimeSettings, named_arms
from nas.profile.space_sample import RESOLUTIONS as SPACE_RESOLUTIONS
from nas.profile.space_sample import SpaceRequest
from nas.study.limits import LIMITS, LimitError, add_limit_flags, check_knowable, given_limits
from search_space import SPACES

REFERENCE = "timm:resnet18"
SPACE_REFERENCES = {"micro": "eradio_pico", "full": "eradio_xt"}  # what a search of that space measures against
SIZE_MULTIPLE_PX = 32
# One, and sizes between the powers of two: there throughput has its steps.
BATCHES = {"cpu": (1, 2, 3, 5, 8, 12, 16, 24, 32), "cuda": (1, 2, 3, 5, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)}
RESOLUTIONS = (64, 96, 128, 192, 224, 256, 320, 384)
SAMPLES = 200
SECONDS, RUNTIME_SECONDS = 30.0, 10.0
SWEPT = ("batches", "resolutions", "layers", "top")
OF_SPACES = ("samples", "seed", *LIMITS)
# What each kind of profile has no use for.
MEANINGLESS = {
    "--arch": OF_SPACES,
    "--arms": (*OF_SPACES, *SWEPT, "arm", "reference", "new_ceilings"),
    "--space": (*SWEPT, "arms"),
}

EXAMPLES = """examples:
  python -m nas.profile --arch eradio                        the paper's network, 224 px, this machine's best device
  python -m nas.profile --arch timm:resnet50 --batch 8       any network of timm
  python -m nas.profile --arch eradio --top 10               the ten most expensive layers
  python -m nas.profile --arch eradio_nano --batches --resolutions 64,96,128 --plot sweeps.png
  python -m nas.profile --arch eradio_nano --arch eradio_pico --arch timm:mobilenetv3_small_050 --resolution 64
  python -m nas.profile --arch runs/NAME/winner.json --json > profile.json
  python -m nas.profile --arch eradio --arm compiled+bf16    another way to run it; words that are left open: see --arm
  python -m nas.profile --arch eradio_nano --arch timm:resnet18 --resolution 64 --arms eager,compiled,onnxruntime
  python -m nas.profile --arch eradio_nano --arms fp32,bf16,bf16+nchw,bf16+unfused --plot arms.png
  python -m nas.profile --arch eradio_nano --arms all        the default and every single change of it
  python -m nas.profile --space micro --samples 500 --max-params 1e6 --max-gmacs 0.02
  python -m nas.profile --space micro --seconds 60 --max-latency-ms 5 --plot space.png
"""

_SECONDS = (
    f"timing budget: of each network and sweep (default: {SECONDS:g}), of each runtime of --arms ({RUNTIME_SECONDS:g}),"
    " of a whole space (none)"
)


@dataclass(frozen=True)
class ProfileCommand:
    """What a person asked for.

    Attributes:
        archs: Presets, timm:NAME or spec files; none for a space.
        settings: How to profile networks, compare runtimes or sample a space.
        threads: CPU threads; None: PyTorch's own number.
        json: Whether to print JSON instead of tables.
        plot: Where a picture goes.
        layers: Whether to show a table of all layers.
        top: How many of the slowest layers to show.
    """

    archs: tuple[str, ...]
    settings: NetworkSettings | RuntimeSettings | SpaceRequest
    threads: int | None
    json: bool
    plot: Path | None
    layers: bool
    top: int | None


def parse(argv: Sequence[str] | None) -> ProfileCommand:
    """Read a command line and fill in defaults; nothing is built yet.

    Raises:
        ValueError: What was asked for is impossible; the message is one line.
        SystemExit: An option is unknown or malformed; one line was printed.
    """
    given = parser().parse_args(argv)
    if bool(given.arch) == bool(given.space):
        raise ValueError("--arch or --space is needed, and one of them only (see --help)")
    kind = "--space" if given.space else "--arch" if given.arms is None else "--arms"
    for name in MEANINGLESS[kind]:
        if getattr(given, name) is not None:
            raise ValueError(f"{_flag(name)}: has no meaning with {kind}")
    _check_numbers(given)
    _check_cache(given.cache)
    device = torch_device(given.device)
    return ProfileCommand(
        archs=tuple(given.arch or ()),
        settings=SETTINGS[kind](given, device),
        threads=given.threads,
        json=given.json,
        plot=None if given.plot is None else Path(given.plot),
        layers=bool(given.layers),
        top=given.top,
    )


def _network_settings(given: argparse.Namespace, device: torch.device) -> NetworkSettings:
    defaults = {"batch": BATCHES[device.type], "resolution": RESOLUTIONS}
    wanted = {"batch": given.batches, "resolution": given.resolutions}  # () stands for the default, None for no sweep
    return NetworkSettings(
        device=device,
        cache=cache_root(given.cache),
        batch=given.batch,
        resolution=given.resolution,
        arm=_arm(given, device),
        seconds=SECONDS if given.seconds is None else given.seconds,
        reference=given.reference or REFERENCE,
        sweeps={kind: sizes or defaults[kind] for kind, sizes in wanted.items() if sizes is not None},
        new_ceilings=bool(given.new_ceilings),
    )


def _runtime_settings(given: argparse.Namespace, device: torch.device) -> RuntimeSettings:
    base = default_arm(device)
    return RuntimeSettings(
        device=device,
        base=base,
        arms=named_arms(given.arms, base),
        batch=given.batch,
        resolution=given.resolution,
        seconds=RUNTIME_SECONDS if given.seconds is None else given.seconds,
    )


def _space_request(given: argparse.Namespace, device: torch.device) -> SpaceRequest:
    arm = _arm(given, device)
    resolution = given.resolution or SPACE_RESOLUTIONS[given.space]
    return SpaceRequest(
        space=given.space,
        samples=given.samples or SAMPLES,
        seed=given.seed or 0,
        limits=_limits(given, device, arm),
        device=device,
        resolution=resolution,
        batch=given.batch or default_batch(device, resolution),
        arm=arm,
        seconds=given.seconds,
        reference=given.reference or SPACE_REFERENCES[given.space],
    )


def _limits(given: argparse.Namespace, device: torch.device, arm: Arm) -> dict[str, float]:
    limits = given_limits(vars(given))
    for limit in (LIMITS[name] for name in limits):
        if limit.measured and given.seconds is None:
            raise LimitError(f"{limit.flag}: needs timing; say how long with --seconds")
    check_knowable(limits, arm.unknown_fields(device.type), f"on {device.type} with the runtime {arm.runtime}")
    return limits


def _arm(given: argparse.Namespace, device: torch.device) -> Arm:
    base = default_arm(device)
    return base if given.arm is None else Arm.parse(given.arm, base)


SETTINGS: dict[str, Callable[[argparse.Namespace, torch.device], NetworkSettings | RuntimeSettings | SpaceRequest]] = {
    "--arch": _network_settings,
    "--arms": _runtime_settings,
    "--space": _space_request,
}


def parser() -> argparse.ArgumentParser:
    """Build the parser. An option with a meaning for one kind of profile only is None where it was not given."""
    made = OneLineParser(
        prog="python -m nas.profile",
        description="What a backbone costs on this machine, stage by stage; or what a sample of a search space costs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument_group("what").add_argument
    add("--arch", action="append", help="preset, timm:NAME or a spec's .json file; may be repeated")
    add("--space", choices=list(SPACES), help="a sample of this search space instead")
    add = made.add_argument_group("how").add_argument
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add("--batch", type=int, help="images a call (default: 128 on CUDA; on a CPU 16 up to 128 px, else 4)")
    add("--resolution", type=int, help="pixels, a multiple of 32 (default: 64 for laptop-scale nets, else 224)")
    add("--arm", metavar="WORDS", help=f"how to run it: words joined by + (default: {_defaults()}): {_words()}")
    add("--seconds", type=float, help=_SECONDS)
    add("--reference", help=f"network timed beside each (default: {REFERENCE}, for a space that of its searches)")
    add("--threads", type=int, help="CPU threads (default: one a core)")
    add(
        "--new-ceilings", action="store_const", const=True, help="measure the device's ceilings again, for the roofline"
    )
    add("--cache", metavar="DIR", help="folder that keeps the ceilings (default ~/.cache/backbone-nas)")
    add("--json", action="store_true", help="one JSON object on stdout instead of tables")
    add("--plot", type=picture_file, metavar="FILE", help="a picture too: .png, .svg or .pdf")
    add = made.add_argument_group("with --arch").add_argument
    sizes = {"nargs": "?", "const": (), "type": _sizes, "metavar": "A,B,..."}
    add("--batches", help=f"sweep of batch sizes (default {_joined(BATCHES['cpu'])}; more on CUDA)", **sizes)  # type: ignore[arg-type]
    add("--resolutions", help=f"sweep of resolutions (default {_joined(RESOLUTIONS)})", **sizes)  # type: ignore[arg-type]
    add(
        "--arms",
        metavar="A,B,...",
        help="runtimes side by side, each timed beside the same network in the first; or all",
    )
    add("--layers", action="store_const", const=True, help="a table of all layers, in the order they run")
    add("--top", type=int, metavar="N", help="the N layers that take longest")
    add = made.add_argument_group("with --space").add_argument
    add("--samples", type=int, metavar="N", help=f"how many specs (default {SAMPLES})")
    add("--seed", type=int, help="of the sample (default 0)")
    measured = ", ".join(limit.flag for limit in LIMITS.values() if limit.measured)
    add_limit_flags(made, f"With --space, the share of the sample within them is shown. --seconds go with: {measured}.")
    return made


def _check_numbers(given: argparse.Namespace) -> None:
    for name in ("batch", "resolution", "seconds", "threads", "samples", "top"):
        value = getattr(given, name)
        if value is not None and not value > 0:
            raise ValueError(f"{_flag(name)}: {value} must be positive")
    for name, values in (("resolution", [given.resolution or 0]), ("resolutions", given.resolutions or ())):
        for value in values:
            if value % SIZE_MULTIPLE_PX:
                raise ValueError(f"--{name}: {value} is not a multiple of {SIZE_MULTIPLE_PX}")


def _check_cache(folder: str | None) -> None:
    root = cache_root(folder)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--cache: cannot write {str(root)!r}: {error.strerror}") from None


def _flag(name: str) -> str:
    return LIMITS[name].flag if name in LIMITS else "--" + name.replace("_", "-")


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be positive whole numbers with commas, as 1,2,3")
    return sizes


def _defaults() -> str:
    """Name the default runtime of each kind of device."""
    return ", ".join(f"on {kind} {default_arm(torch.device(kind))}" for kind in ("cpu", "cuda"))


def _words() -> str:
    return "; ".join(", ".join(words) for words in (RUNTIMES, PRECISIONS, LAYOUTS, FORMS))


def _joined(sizes: Sequence[int]) -> str:
    return ",".join(map(str, sizes))
