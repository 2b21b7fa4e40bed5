"""Define the settings of ``backbone-nas cache`` and its command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from nas.cli import PROGRAM, OneLineParser
from nas.flags import add_flags, shared
from nas.measure.devices import device_type, fast_precision
from nas.study.config import TARGET_DTYPES, TARGET_SHARE, TEACHER_PRECISIONS, SearchConfig
from nas.validation import ConfigError, Files, Flag, HeldOutImages, Images, OneOf, Pixels, Text, Views, checked

_EXAMPLES = """examples:
  backbone-nas cache build                                 the default search's cache, before the search
  backbone-nas cache build --data imagefolder:PHOTOS --teachers am_radio --img-size 224 --teacher-precision bf16
  backbone-nas cache build --teachers NAME --teacher-weights NAME=weights.safetensors
  backbone-nas cache verify --samples 64                   hash every file, run every teacher again
  backbone-nas cache ls
  backbone-nas cache gc --days 30 --dry-run                show what was not used for 30 days
Several builds of the same cache, on one machine or many, share the work.
"""
DEFAULTS = SearchConfig()
_Cache = Annotated[str | None, shared("cache")]
_Weights = Annotated[Files, shared("teacher_weights", "download from timm", names=("--teacher-weights",))]


@checked
@dataclass(frozen=True)
class BuildSettings:
    """Which entries of a cache to build; the fields are the settings of `nas.cache.open_targets`."""

    cache: _Cache = None
    data: Annotated[Text, Flag("images: builtin, imagefolder:PATH, webdataset:PATTERN or cifar10", "URI")] = (
        DEFAULTS.data
    )
    teachers: Annotated[Text, Flag("comma list of teachers or sets", "NAMES")] = DEFAULTS.teachers
    weights: _Weights = field(default_factory=dict)
    train_images: Annotated[Images, Flag("images in the train split", "N")] = DEFAULTS.train_images
    val_images: Annotated[HeldOutImages, Flag("images in the held-out split", "N")] = DEFAULTS.val_images
    img_size: Annotated[Pixels, shared("img_size")] = DEFAULTS.distill.img_size
    grid: Annotated[
        Annotated[int, Field(strict=True, ge=1, le=256)] | None, Flag("side of the spatial targets", "N", "PX / 16")
    ] = None
    views: Annotated[Views, shared("views")] = 1
    teacher_precision: Annotated[
        str, OneOf(TEACHER_PRECISIONS), shared("teacher_precision", "that of a search here")
    ] = field(default_factory=lambda: fast_precision(device_type("auto")))
    target_dtype: Annotated[str, OneOf(TARGET_DTYPES), Flag("data type of each stored number")] = "int8"
    share: Annotated[
        float,
        Field(strict=True, gt=0, le=1),
        Flag("share of each teacher's numbers that PCA keeps, 1 keeps all", "X"),
    ] = TARGET_SHARE


@checked
@dataclass(frozen=True)
class VerifySettings:
    """Which sets to verify, and on how many held-out images."""

    cache: _Cache = None
    sets: Annotated[
        tuple[Text, ...],
        Flag("set files to verify", default="all in the folder", names=("SET",), more={"nargs": "*", "type": None}),
    ] = ()
    samples: Annotated[int, Field(strict=True, ge=1, le=10_000_000), Flag("images to run", "N")] = 32
    weights: _Weights = field(default_factory=dict)


@checked
@dataclass(frozen=True)
class ListSettings:
    """Which cache folder to list."""

    cache: _Cache = None


@checked
@dataclass(frozen=True)
class DeleteSettings:
    """Which unused entries to delete."""

    cache: _Cache = None
    days: Annotated[
        Annotated[float, Field(strict=True, gt=0, le=100_000)] | None,
        Flag("delete entries that were not used for N days", "N"),
    ] = None
    all: Annotated[bool, Flag("delete all entries")] = False
    incomplete: Annotated[bool, Flag("delete entries whose build was not finished")] = False
    dry_run: Annotated[bool, Flag("show what would be deleted, and delete nothing")] = False

    def __post_init__(self) -> None:
        if (self.days is not None) + self.all + self.incomplete != 1:
            raise ConfigError("--days: one of --days, --all and --incomplete is required, and no second one")


CacheSettings = BuildSettings | VerifySettings | ListSettings | DeleteSettings
_COMMANDS: dict[str, tuple[type[CacheSettings], str]] = {
    "build": (BuildSettings, "Run teachers on images and store their features."),
    "verify": (VerifySettings, "Hash every file and run every teacher again on held-out images."),
    "ls": (ListSettings, "List the entries of the cache folder."),
    "gc": (DeleteSettings, "Delete entries that no process uses: of an age, all or incomplete ones."),
}


def parser() -> OneLineParser:
    """Build the parser; its options are the fields of the sub-command's settings, and `settings` is their class."""
    about = "Build, verify, list and delete caches of teacher features."
    top = OneLineParser(prog=f"{PROGRAM} cache", description=about, epilog=_EXAMPLES)
    commands = top.add_subparsers(required=True, metavar="|".join(_COMMANDS))
    for name, (settings, does) in _COMMANDS.items():
        command = commands.add_parser(name, help=does, description=does, argument_default=argparse.SUPPRESS)
        command.set_defaults(settings=settings)
        add_flags(command, settings)
    return top


def parse(words: Sequence[str]) -> CacheSettings:
    """Return the settings of a command line; SystemExit(2) or ConfigError, one line, where it is wrong."""
    options = vars(parser().parse_args(words))
    settings: CacheSettings = options.pop("settings")(**options)
    return settings
