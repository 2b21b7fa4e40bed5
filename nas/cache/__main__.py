"""``python -m nas.cache``: builds, checks, lists and clears what teachers said about images."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from nas.cache.build import open_targets
from nas.cache.codecs import CODECS
from nas.cache.entry import CacheError
from nas.cache.estimate import size, summary
from nas.cache.inventory import collect, list_entries
from nas.cache.verify import MIN_COSINE, verify_set
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
  python -m nas.cache build                                 what nas.search builds, before it is needed
  python -m nas.cache build --data imagefolder:PHOTOS --teachers am_radio --image-px 224 --views 4
  python -m nas.cache build --teachers NAME --teacher NAME=weights.safetensors
  python -m nas.cache verify --samples 64                   hash every file, run every teacher again
  python -m nas.cache ls
  python -m nas.cache gc --days 30 --dry-run                what was not used for 30 days
Several builds of the same cache, on one machine or many, share the work.
"""
DAY_S = 86400.0
_LOG = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0 done, 1 a cache that is not what it should be, 2 bad input."""
    return exit_code(lambda: _command(argv), public_text, "what is finished was kept, the same command continues")


def _command(argv: Sequence[str] | None) -> int:
    arguments = parser().parse_args(argv)
    run: Callable[[argparse.Namespace, Path], int] = arguments.run
    return run(arguments, cache_root(arguments.cache))


def build(arguments: argparse.Namespace, root: Path) -> int:
    """Build what is missing, and say what it came to."""
    console = stderr_console()
    progress = StageProgress(console)
    with progress.showing():
        targets = open_targets(
            arguments.data,
            arguments.teachers,
            root=root,
            train_images=arguments.train_images,
            val_images=arguments.val_images,
            image_px=arguments.image_px,
            grid=arguments.grid or arguments.image_px // 16,
            seed=0,  # as in nas.search
            views=arguments.views,
            storage=arguments.storage,
            share=arguments.share,
            weights=arguments.teacher,
            progress=progress,
            announce=lambda line: announce(line, _LOG, console),
        )
    print(summary(targets.path))
    return 0


def verify(arguments: argparse.Namespace, root: Path) -> int:
    """Hash and re-run; 1 if anything is not what it was."""
    paths = [Path(path) for path in arguments.sets] or sorted(root.glob("set-*.json"))
    if not paths:
        raise CacheError(f"--cache: nothing is built in {root}")
    bad = False
    for path in paths:
        print(path)
        try:
            found = verify_set(path, arguments.samples, arguments.teacher)
        except ValueError as error:
            print(f"  error: {one_line(error)}")
            bad = True
            continue
        for agreement in found:
            bad |= not agreement.good
            print(
                f"  {agreement.teacher} {agreement.head}: cosine of stored to live targets {agreement.stored:.4f}"
                f"{'' if agreement.good else f', below {MIN_COSINE}'}; of decompressed to live features"
                f" {agreement.decompressed:.4f} on {agreement.images} images ({agreement.built:.4f} on all held-out"
                " ones when built)"
            )
    return int(bad)


def ls(arguments: argparse.Namespace, root: Path) -> int:
    """A table on stdout."""
    found = list_entries(root)
    rows = [("what", "images", "size", "last used", "state", "folder")]
    for entry in found:
        used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
        rows.append((entry.what, str(entry.images), size(entry.bytes), used, entry.state, entry.folder.name))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"{size(sum(entry.bytes for entry in found))} in {root}")
    return 0


def gc(arguments: argparse.Namespace, root: Path) -> int:
    """Delete what was asked for and nobody uses."""
    oldest = time.time() - (arguments.days or 0) * DAY_S
    chosen = [
        entry
        for entry in list_entries(root)
        if arguments.all
        or (arguments.half_built and entry.state == "half built")
        or (arguments.days is not None and entry.used < oldest)
    ]
    freed = 0
    for entry, goes in collect(root, chosen, arguments.dry_run):
        freed += entry.bytes * goes
        word = ("would delete" if arguments.dry_run else "deleted") if goes else "in use, left alone:"
        print(f"{word} {entry.folder.name} ({entry.what}, {size(entry.bytes)})")
    print(f"{size(freed)} {'would be' if arguments.dry_run else ''} freed".replace("  ", " "))
    return 0


def parser() -> OneLineParser:
    made = OneLineParser(
        prog="python -m nas.cache",
        description="Teachers' outputs, computed once and kept: build, check, list, clear.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = made.add_subparsers(required=True, metavar="build|verify|ls|gc")

    def command(name: str, run: Callable[[argparse.Namespace, Path], int], about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about)
        added.set_defaults(run=run)
        added.add_argument("--cache", metavar="DIR", help="folder of caches (default ~/.cache/backbone-nas)")
        return added

    add_build_arguments(command("build", build, "Run teachers on images and keep what they say."))
    verifying = command("verify", verify, "Hash every file and run every teacher again on some held-out images.")
    verifying.add_argument("sets", nargs="*", metavar="SET", help="set files (default: all in the cache)")
    verifying.add_argument("--samples", type=positive, default=32, metavar="N", help="images (default 32)")
    add_weights(verifying)
    command("ls", ls, "List what is there.")
    clearing = command("gc", gc, "Delete what nobody uses; what another process holds is left alone.")
    which = clearing.add_mutually_exclusive_group(required=True)
    which.add_argument("--days", type=float, metavar="N", help="what was last used more than N days ago")
    which.add_argument("--all", action="store_true", help="everything")
    which.add_argument("--half-built", action="store_true", help="what no process has finished")
    clearing.add_argument("--dry-run", action="store_true", help="only say what would go")
    return made


def add_build_arguments(building: argparse.ArgumentParser) -> None:
    defaults = SearchConfig()
    add = building.add_argument
    add("--data", metavar="URI", default=defaults.data, help="builtin, imagefolder:PATH, webdataset:PATTERN, cifar10")
    add("--teachers", metavar="NAMES", default=defaults.teachers, help="comma list of teachers or sets")
    add_weights(building)
    add("--train-images", type=positive, metavar="N", default=defaults.train_images, help="(default %(default)s)")
    add("--val-images", type=positive, metavar="N", default=defaults.val_images, help="(default %(default)s)")
    add("--image-px", type=positive, metavar="PX", default=defaults.distill.image_px, help="student's input size")
    add("--grid", type=positive, metavar="N", help="side of the spatial targets (default PX / 16)")
    add("--views", type=positive, metavar="N", default=1, help="stored augmentations of each train image (default 1)")
    add("--storage", choices=list(CODECS), default="int8", help="of each number (default int8)")
    help_share = "of each teacher's numbers kept by PCA, 1 keeps all (default: int4 0.5, else 0.25)"
    add("--share", type=float, metavar="X", help=help_share)


def add_weights(to: argparse.ArgumentParser) -> None:
    to.add_argument("--teacher", action=NamedFile, default={}, metavar="NAME=FILE", help=TEACHER_HELP)


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be 1 or more")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
