"""Define the settings of ``backbone-nas cache`` and its command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from nas.cli import PROGRAM, OneLineParser
from nas.measure.devices import device_type, fast_precision
from nas.old_flags import add_cache, add_flag
from nas.ranges import HeldOutImages, Images, OneOf, Pixels, Range, Views, check_fields
from nas.study.config import TARGET_DTYPES, TEACHER_PRECISIONS, SearchConfig

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


def _default_precision() -> str:
    return fast_precision(device_type("auto"))


@dataclass(frozen=True)
class BuildSettings:
    """Which entries of a cache to build; the fields are the settings of `nas.cache.open_targets`."""

    cache: str | None = None
    data: str = DEFAULTS.data
    teachers: str = DEFAULTS.teachers
    weights: dict[str, Path] = field(default_factory=dict)
    train_images: Images = DEFAULTS.train_images
    val_images: HeldOutImages = DEFAULTS.val_images
    img_size: Pixels = DEFAULTS.distill.img_size
    grid: Annotated[int, Range(1, 256)] | None = None  # None: img_size // 16
    views: Views = 1
    teacher_precision: Annotated[str, OneOf(TEACHER_PRECISIONS)] = field(default_factory=_default_precision)
    target_dtype: str = "int8"
    share: Annotated[float, Range(0, 1, above=True)] | None = None  # None: the default of the data type

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class VerifySettings:
    """Which sets to verify, all without a name, and on how many held-out images."""

    cache: str | None = None
    sets: Sequence[str] = ()
    samples: Annotated[int, Range(1, 10_000_000)] = 32
    weights: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class ListSettings:
    """Which cache folder to list."""

    cache: str | None = None


@dataclass(frozen=True)
class DeleteSettings:
    """Which unused entries to delete: all, incomplete ones, or those not used for `days`."""

    cache: str | None = None
    days: Annotated[float, Range(0, 100_000, above=True)] | None = None
    all: bool = False
    incomplete: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


CacheSettings = BuildSettings | VerifySettings | ListSettings | DeleteSettings


def parse(words: Sequence[str]) -> CacheSettings:
    """Return the settings of a command line; SystemExit(2) or ConfigError, one line, where it is wrong."""
    options = vars(parser().parse_args(words))
    settings: CacheSettings = options.pop("settings")(**options)
    return settings


def parser() -> OneLineParser:
    """Build the parser; its options are the fields of the sub-command's settings, and `settings` is their class."""
    top = OneLineParser(
        prog=f"{PROGRAM} cache",
        description="Build, verify, list and delete caches of teacher features.",
        epilog=_EXAMPLES,
    )
    commands = top.add_subparsers(required=True, metavar="build|verify|ls|gc")

    def add_command(name: str, settings: type[CacheSettings], about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about)
        added.set_defaults(settings=settings)
        add_cache(added.add_argument)
        return added

    _add_build_options(add_command("build", BuildSettings, "Run teachers on images and store their features."))
    verify = add_command("verify", VerifySettings, "Hash every file and run every teacher again on held-out images.")
    verify.add_argument("sets", nargs="*", metavar="SET", help="set files to verify (default: all in the folder)")
    verify.add_argument("--samples", type=int, default=32, metavar="N", help="images to run (default: 32)")
    _add_weights(verify.add_argument)
    add_command("ls", ListSettings, "List the entries of the cache folder.")
    delete = add_command("gc", DeleteSettings, "Delete entries that no process uses.")
    which = delete.add_mutually_exclusive_group(required=True)
    which.add_argument("--days", type=float, metavar="N", help="delete entries that were not used for N days")
    which.add_argument("--all", action="store_true", help="delete all entries")
    which.add_argument("--incomplete", action="store_true", help="delete entries whose build was not finished")
    delete.add_argument("--dry-run", action="store_true", help="show what would be deleted, and delete nothing")
    return top


def _add_build_options(build: argparse.ArgumentParser) -> None:
    """Add the options of ``build``."""
    add = build.add_argument
    data = "images: builtin, imagefolder:PATH, webdataset:PATTERN or cifar10 (default: %(default)s)"
    add("--data", metavar="URI", default=DEFAULTS.data, help=data)
    names = "comma list of teachers or sets (default: %(default)s)"
    add("--teachers", metavar="NAMES", default=DEFAULTS.teachers, help=names)
    _add_weights(add)
    for flag, count, what in (
        ("--train-images", DEFAULTS.train_images, "images in the train split"),
        ("--val-images", DEFAULTS.val_images, "images in the held-out split"),
    ):
        add(flag, type=int, metavar="N", default=count, help=f"{what} (default: %(default)s)")
    px = DEFAULTS.distill.img_size
    add_flag(add, "--img-size", str(px), default=px)
    add("--grid", type=int, metavar="N", help="side of the spatial targets (default: PX / 16)")
    add_flag(add, "--views", "1", default=1)
    precision = _default_precision()
    add_flag(add, "--teacher-precision", "that of a search here", choices=TEACHER_PRECISIONS, default=precision)
    add("--target-dtype", choices=TARGET_DTYPES, default="int8", help="data type of each stored number (default: int8)")
    share = "share of each teacher's numbers that PCA keeps, 1 keeps all (default: 0.5 in int4, else 0.25)"
    add("--share", type=float, metavar="X", help=share)


def _add_weights(add: Callable[..., object]) -> None:
    add_flag(add, "--teacher-weights", "download from timm", dest="weights", default={})
