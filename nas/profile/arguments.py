"""Define the settings of ``backbone-nas profile`` and its command line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from nas.cli import PROGRAM, OneLineParser
from nas.flags import MEASURING_DEVICE, Picture, parser_of, reader, shared
from nas.machine import check_cache
from nas.measure.devices import device_type
from nas.measure.runtime_spec import FORMS, LAYOUTS, Arm, check_reported, check_runs_here, default_arm, named_arms
from nas.measure.runtime_traits import PRECISIONS, RUNTIMES
from nas.study.limits import LIMITS, LimitError, add_limit_flags, given_limits
from nas.validation import BatchSize, ConfigError, Flag, MeasureSeconds, Pixels, Seed, Text, Threads, checked, spelled
from search_space import SPACES
from search_space.own_choices import choice_words, with_choices
from search_space.space import Space
from search_space.timm_spec import check_arch

if TYPE_CHECKING:
    import torch

NETWORK_REFERENCE = "timm:resnet18"
# Sizes between the powers of two are included, because throughput has its steps there.
BATCHES = {"cpu": (1, 2, 3, 5, 8, 12, 16, 24, 32), "cuda": (1, 2, 3, 5, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)}
RESOLUTIONS = (64, 96, 128, 192, 224, 256, 320, 384)
SECONDS, RUNTIME_SECONDS = 30.0, 10.0
SMALL_PX = 128
SWEPT = ("batch_sizes", "img_sizes", "layers", "top")
SPACE_ONLY = ("choices", "samples", "seed", *LIMITS)
# The options that each kind of profile does not take.
UNUSED = {
    "--arch": SPACE_ONLY,
    "--runtimes": (*SPACE_ONLY, *SWEPT, "runtime", "reference", "new_ceilings"),
    "--space": (*SWEPT, "runtimes", "new_ceilings"),
}

_EXAMPLES = """examples:
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
_RUNTIME = f"{Arm()} on cpu, {Arm('compiled', 'bf16')} on cuda, or fp16 where the GPU has no bf16"
_WORDS = "; ".join(", ".join(words) for words in (RUNTIMES, PRECISIONS, LAYOUTS, FORMS))
_of_networks, _of_space = (partial(Flag, group=title) for title in ("with --arch", "with --space"))


def _sweep(what: str, sizes: Iterable[int], more: str, kind: Any) -> Flag:
    """Return the flag of a sweep over sizes of a type; () stands for the default ones."""
    about = f"{what} to sweep; the bare flag sweeps {','.join(map(str, sizes))}{more}"
    read = reader(Annotated[tuple[kind, ...], Field(min_length=1)])
    return _of_networks(about, "A,B,...", "no sweep", more={"nargs": "?", "const": (), "type": read})


def _references() -> str:
    """Return the reference of each space, in words: spaces with the same one are named together."""
    spaces: dict[str, list[str]] = {}
    for space in SPACES.values():
        spaces.setdefault(space.reference, []).append(space.name)
    return ", ".join(f"{reference} for {' and '.join(names)}" for reference, names in spaces.items())


@checked
@dataclass(frozen=True)
class ProfileSettings:
    """Networks to profile, one by one or on several runtimes, or a space to sample; and how."""

    archs: Annotated[
        tuple[Text, ...],
        Flag(
            "preset, timm:NAME or a spec's .json file; may be repeated",
            "ARCH",
            names=("--arch",),
            more={"action": "append", "type": None},
        ),
    ] = ()
    space: Annotated[
        str,
        Flag("profile a sample of this search space instead of --arch", default="none", more={"choices": SPACES}),
    ] = ""
    device: Annotated[Text, MEASURING_DEVICE] = "auto"
    batch_size: Annotated[
        BatchSize | None, shared("batch_size", f"128 on CUDA; 16 on a CPU up to {SMALL_PX} px, else 4")
    ] = None
    img_size: Annotated[Pixels | None, shared("img_size", "64 for specs of the spaces laptop and micro, else 224")] = (
        None
    )
    runtime: Annotated[Text | None, shared("runtime", _RUNTIME, f"; words: {_WORDS}")] = None
    measure_seconds: Annotated[
        MeasureSeconds | None,
        shared(
            "measure_seconds",
            f"{SECONDS:g}; {RUNTIME_SECONDS:g} with --runtimes; a sample is not timed",
            ", of each sweep, of each runtime with --runtimes, and of the whole sample with --space",
        ),
    ] = None
    reference: Annotated[
        Text | None,
        Flag("network that each is timed against", "ARCH", f"{NETWORK_REFERENCE}; with --space {_references()}"),
    ] = None
    threads: Annotated[Threads | None, shared("threads", "one per core")] = None
    new_ceilings: Annotated[
        bool, Flag("measure the roofline's ceilings again", default="measure them once and keep them")
    ] = False
    cache: Annotated[str | None, shared("cache")] = None
    json: Annotated[bool, shared("json")] = False
    plot: Annotated[Picture | None, shared("plot")] = None
    batch_sizes: Annotated[
        tuple[BatchSize, ...] | None, _sweep("batch sizes", BATCHES["cpu"], ", more on CUDA", BatchSize)
    ] = None
    img_sizes: Annotated[tuple[Pixels, ...] | None, _sweep("image sizes in pixels", RESOLUTIONS, "", Pixels)] = None
    runtimes: Annotated[
        str,
        _of_networks("runtimes to compare, or all; each is timed against the first", "A,B,...", "no comparison"),
    ] = ""
    layers: Annotated[bool, _of_networks("print a table of all layers, in the order of execution")] = False
    top: Annotated[
        Annotated[int, Field(strict=True, ge=1, le=1_000_000)] | None,
        _of_networks("print a table of the N slowest layers", "N", "no table"),
    ] = None
    choices: Annotated[dict[str, dict[str, Any]], shared("choices", group="with --space")] = field(default_factory=dict)
    samples: Annotated[int, Field(strict=True, ge=1, le=1_000_000), _of_space("number of specs", "N")] = 200
    seed: Annotated[Seed, _of_space("seed of the sample", "N")] = 0
    limits: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.archs) == bool(self.space):
            raise ConfigError("name either --arch or --space (see --help)")
        for arch in (*self.archs, self.against):
            check_arch(arch)
        device = device_type(self.device)
        check_runs_here(device, self.arm.runtime, self.arm.precision)
        if self.runtimes:
            self.arms()
        if self.space:
            self.sampled_space()
            for limit in (LIMITS[name] for name in self.limits):
                if limit.measured and self.measure_seconds is None:
                    raise LimitError(f"{limit.flag}: needs timing; set its budget with --measure-seconds")
            check_reported(self.arm, device, self.limits)

    @cached_property
    def torch_device(self) -> torch.device:
        """Return the device; DeviceError where there is no such GPU."""
        from nas.measure import torch_device  # imports torch, which takes seconds: not for --help or a bad flag

        return torch_device(self.device)

    @cached_property
    def arm(self) -> Arm:
        """Return how networks run; with --runtimes, what completes the names of runtimes."""
        base = default_arm(device_type(self.device))
        return Arm.parse(self.runtime, base) if self.runtime else base

    def arms(self) -> dict[str, Arm]:
        """Return the runtimes to compare, by the names that the user gives them."""
        return named_arms(self.runtimes, self.arm)

    @property
    def seconds(self) -> float:
        """Return the budget of each timing of a network."""
        return self.measure_seconds or (RUNTIME_SECONDS if self.runtimes else SECONDS)

    @property
    def against(self) -> str:
        """Return the network that each is timed against."""
        return self.reference or (SPACES[self.space].reference if self.space else NETWORK_REFERENCE)

    @property
    def sweeps(self) -> dict[str, tuple[int, ...]]:
        """Return the sizes to sweep over, by "batch" and "resolution"."""
        defaults = {"batch": BATCHES[device_type(self.device)], "resolution": RESOLUTIONS}
        wanted = {"batch": self.batch_sizes, "resolution": self.img_sizes}
        return {kind: sizes or defaults[kind] for kind, sizes in wanted.items() if sizes is not None}

    def batch_at(self, px: int) -> int:
        """Return the images a call; on a CPU, 16 images over 128 px may take ten seconds."""
        on_cpu = 16 if px <= SMALL_PX else 4
        return self.batch_size or (128 if device_type(self.device) == "cuda" else on_cpu)

    @property
    def sample_px(self) -> int:
        """Return the size of the images for which the space is sampled."""
        return self.img_size or SPACES[self.space].image_px

    def sampled_space(self) -> Space:
        """Return the space to sample, for images of this size."""
        return with_choices(SPACES[self.space].at(self.sample_px), self.choices, self.sample_px)

    @property
    def space_name(self) -> str:
        """Return the space in words: its name and the choices that differ, as "laptop, stages.blocks=mbconv"."""
        return ", ".join((self.space, *choice_words(self.choices)))


def parse(words: Sequence[str]) -> ProfileSettings:
    """Return the settings of a command line; SystemExit(2) or ValueError, one line, where it is wrong."""
    options = vars(parser().parse_args(words))
    limits = given_limits(options)
    settings = ProfileSettings(**{name: options[name] for name in options if name not in limits}, limits=limits)
    kind = "--space" if settings.space else "--runtimes" if settings.runtimes else "--arch"
    if unused := next((name for name in UNUSED[kind] if name in options), None):
        flag = LIMITS[unused].flag if unused in limits else spelled(ProfileSettings, unused)
        raise ConfigError(f"{flag}: does not go with {kind}")
    check_cache(settings.cache)
    return settings


def parser() -> OneLineParser:
    """Build the parser."""
    about = "Measure the cost of backbones on this machine, stage by stage, or sample a search space."
    usage = f"{PROGRAM} profile (--arch ARCH ... | --space NAME) [OPTION ...]"
    built = parser_of(ProfileSettings, "profile", about, _EXAMPLES, usage=usage)
    measured = ", ".join(limit.flag for limit in LIMITS.values() if limit.measured)
    of_space = f"With --space, the share of the sample within the limits is printed. {measured} need --measure-seconds."
    add_limit_flags(built, of_space)
    return built
