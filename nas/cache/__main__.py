"""``python -m nas.cache``: build, verify, list and delete caches of teacher features."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from nas.cache.build import STUDY_SEED, open_targets
from nas.cache.codecs import CODECS
from nas.cache.entry import CacheError
from nas.cache.estimate import format_bytes, summarize
from nas.cache.inventory import INCOMPLETE, delete_entries, list_entries
from nas.cache.verify import MIN_COSINE, TeacherAgreement, verify_set
from nas.cli import (
    TEACHER_HELP,
    NamedFile,
    OneLineParser,
    StageProgress,
    cache_root,
    exit_code,
    one_line,
    stderr_console,
)
from nas.command_log import announce
from nas.study.config import SearchConfig
from nas.study.redaction import public_text

EXAMPLES = """examples:
  python -m nas.cache build                                 the default search's cache, before the search
  python -m nas.cache build --data imagefolder:PHOTOS --teachers am_radio --img-size 224 --views 4
  python -m nas.cache build --teachers NAME --teacher-weights NAME=weights.safetensors
  python -m nas.cache verify --samples 64                   hash every file, run every teacher again
  python -m nas.cache ls
  python -m nas.cache gc --days 30 --dry-run                show what was not used for 30 days
Several builds of the same cache, on one machine or many, share the work.
"""
DAY_S = 86400.0
DEFAULTS = SearchConfig()
_LOG = logging.getLogger(__name__)


class CacheCommand(Protocol):
    """The settings of a sub-command, with the cache folder `cache` (None: the default folder)."""

    @property
    def cache(self) -> str | None:
        """The folder of caches, None for the default."""

    def run(self, root: Path) -> int:
        """Run the command on the cache folder `root` and return the exit code."""


@dataclass(frozen=True)
class BuildCommand:
    """Builds the missing entries of a cache; fields are the settings of `open_targets`."""

    cache: str | None = None
    data: str = DEFAULTS.data
    teachers: str = DEFAULTS.teachers
    weights: dict[str, Path] = field(default_factory=dict)
    train_images: int = DEFAULTS.train_images
    val_images: int = DEFAULTS.val_images
    img_size: int = DEFAULTS.distill.img_size
    grid: int | None = None  # None: img_size // 16
    views: int = 1
    target_dtype: str = "int8"
    share: float | None = None  # None: the default of the data type

    def run(self, root: Path) -> int:
        """Build the cache and print a summary."""
        console = stderr_console()
        progress = StageProgress(console)
        with progress.showing():
            targets = open_targets(
                self.data,
                self.teachers,
                root=root,
                train_images=self.train_images,
                val_images=self.val_images,
                image_px=self.img_size,
                grid=self.grid or self.img_size // 16,
                seed=STUDY_SEED,
                views=self.views,
                storage=self.target_dtype,
                share=self.share,
                weights=self.weights,
                progress=progress,
                announce=lambda line: announce(line, _LOG, console),
            )
        print(summarize(targets.path))
        return 0


@dataclass(frozen=True)
class VerifyCommand:
    """Hashes the files of sets (None given: all) and runs their teachers on `samples` held-out images."""

    cache: str | None = None
    sets: Sequence[str] = ()
    samples: int = 32
    weights: dict[str, Path] = field(default_factory=dict)

    def run(self, root: Path) -> int:
        """Print every head's agreement; return 1 if a set is damaged or a teacher disagrees."""
        paths = [Path(path) for path in self.sets] or sorted(root.glob("set-*.json"))
        if not paths:
            raise CacheError(f"--cache: no built cache in {root}")
        valid = [self.verify(path) for path in paths]
        return int(not all(valid))

    def verify(self, path: Path) -> bool:
        """Verify one set and print the result; return whether it is valid."""
        print(path)
        try:
            agreements = verify_set(path, self.samples, self.weights)
        except ValueError as error:
            print(f"  error: {one_line(error)}")
            return False
        for agreement in agreements:
            print(f"  {agreement_line(agreement)}")
        return all(agreement.agrees for agreement in agreements)


@dataclass(frozen=True)
class ListCommand:
    """Lists the entries of a cache folder."""

    cache: str | None = None

    def run(self, root: Path) -> int:
        """Print a table of the entries."""
        entries = list_entries(root)
        rows = [("content", "images", "size", "last used", "state", "folder")]
        for entry in entries:
            used = datetime.fromtimestamp(entry.last_used).strftime("%Y-%m-%d %H:%M")
            size = format_bytes(entry.bytes)
            rows.append((entry.content, str(entry.images), size, used, entry.state, entry.folder.name))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        print(f"{format_bytes(sum(entry.bytes for entry in entries))} in {root}")
        return 0


@dataclass(frozen=True)
class DeleteCommand:
    """Deletes entries that no process uses: all, incomplete ones, or those not used for `days`."""

    cache: str | None = None
    days: float | None = None
    all: bool = False
    incomplete: bool = False
    dry_run: bool = False

    def run(self, root: Path) -> int:
        """Delete the entries and print each one."""
        oldest = time.time() - (self.days or 0) * DAY_S
        chosen = [
            entry
            for entry in list_entries(root)
            if self.all
            or (self.incomplete and entry.state == INCOMPLETE)
            or (self.days is not None and entry.last_used < oldest)
        ]
        freed = 0
        for entry, deleted in delete_entries(root, chosen, self.dry_run):
            freed += entry.bytes * deleted
            action = ("would delete" if self.dry_run else "deleted") if deleted else "in use, not deleted:"
            print(f"{action} {entry.folder.name} ({entry.content}, {format_bytes(entry.bytes)})")
        print(f"{format_bytes(freed)} {'would be freed' if self.dry_run else 'freed'}")
        return 0


def agreement_line(agreement: TeacherAgreement) -> str:
    """Describe the agreement of one head in a line."""
    limit = "" if agreement.agrees else f", below {MIN_COSINE}"
    return (
        f"{agreement.teacher} {agreement.head}: cosine of stored to live targets {agreement.stored:.4f}{limit};"
        f" of decompressed to live features {agreement.decompressed:.4f} on {agreement.images} images"
        f" ({agreement.built:.4f} on all held-out images during the build)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 an invalid cache or a failure, 2 bad input."""
    return exit_code(lambda: _run(argv), public_text, "finished shards were kept; run the same command to continue")


def _run(argv: Sequence[str] | None) -> int:
    options = vars(parser().parse_args(argv))
    command: CacheCommand = options.pop("command")(**options)
    return command.run(cache_root(command.cache))


def parser() -> OneLineParser:
    """Build the parser; its options are the fields of the sub-command's class, and `command` is the class."""
    top = OneLineParser(
        prog="python -m nas.cache",
        description="Build, verify, list and delete caches of teacher features.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(required=True, metavar="build|verify|ls|gc")

    def add_command(name: str, command: type[CacheCommand], about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about)
        added.set_defaults(command=command)
        added.add_argument(
            "--cache", metavar="DIR", help="folder of caches (default: $BACKBONE_NAS_CACHE, else ~/.cache/backbone-nas)"
        )
        return added

    add_build_options(add_command("build", BuildCommand, "Run teachers on images and store their features."))
    verify = add_command("verify", VerifyCommand, "Hash every file and run every teacher again on held-out images.")
    verify.add_argument("sets", nargs="*", metavar="SET", help="set files to verify (default: all in the folder)")
    verify.add_argument("--samples", type=positive, default=32, metavar="N", help="images to run (default: 32)")
    add_weights(verify)
    add_command("ls", ListCommand, "List the entries of the cache folder.")
    delete = add_command("gc", DeleteCommand, "Delete entries that no process uses.")
    which = delete.add_mutually_exclusive_group(required=True)
    which.add_argument("--days", type=float, metavar="N", help="delete entries that were not used for N days")
    which.add_argument("--all", action="store_true", help="delete all entries")
    which.add_argument("--incomplete", action="store_true", help="delete entries whose build was not finished")
    delete.add_argument("--dry-run", action="store_true", help="show what would be deleted, and delete nothing")
    return top


def add_build_options(build: argparse.ArgumentParser) -> None:
    """Add the options of ``build``."""
    add = build.add_argument
    data = "images: builtin, imagefolder:PATH, webdataset:PATTERN or cifar10 (default: %(default)s)"
    add("--data", metavar="URI", default=DEFAULTS.data, help=data)
    names = "comma list of teachers or sets (default: %(default)s)"
    add("--teachers", metavar="NAMES", default=DEFAULTS.teachers, help=names)
    add_weights(build)
    for flag, count, what in (
        ("--train-images", DEFAULTS.train_images, "images in the train split"),
        ("--val-images", DEFAULTS.val_images, "images in the held-out split"),
    ):
        add(flag, type=positive, metavar="N", default=count, help=f"{what} (default: %(default)s)")
    side = "side of the student's input (default: %(default)s)"
    add("--img-size", type=positive, metavar="PX", default=DEFAULTS.distill.img_size, help=side)
    add("--grid", type=positive, metavar="N", help="side of the spatial targets (default: PX / 16)")
    add("--views", type=positive, metavar="N", default=1, help="stored augmentations of each train image (default: 1)")
    add("--target-dtype", choices=list(CODECS), default="int8", help="data type of each stored number (default: int8)")
    share = "share of each teacher's numbers that PCA keeps, 1 keeps all (default: 0.5 in int4, else 0.25)"
    add("--share", type=float, metavar="X", help=share)


def add_weights(command: argparse.ArgumentParser) -> None:
    """Add ``--teacher-weights NAME=FILE``."""
    add = command.add_argument
    add("--teacher-weights", dest="weights", action=NamedFile, default={}, metavar="NAME=FILE", help=TEACHER_HELP)


def positive(text: str) -> int:
    """Parse a whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be 1 or more")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
