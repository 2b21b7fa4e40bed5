"""``backbone-nas copy RUN --out DIR``: copy a run folder with its study as a file, also from PostgreSQL."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli import PROGRAM, OneLineParser, exit_code, folder_to_write
from nas.command_log import announce
from nas.files import atomic_write
from nas.numbers import plural
from nas.old_flags import add_run
from nas.scratch import scratch_folder
from nas.stage_progress import StageProgress
from nas.terminal import stderr_console, write_line

if TYPE_CHECKING:
    from nas.storage.store import Store

_EXAMPLES = """examples:
  backbone-nas copy runs/mine --out /media/disk/mine
  backbone-nas copy /shared/runs/vlm --out vlm          a study in PostgreSQL: the copy has it in vlm/study.db

The copy is a run folder of its own, which needs neither the original nor a database: every command works on it. It has
all files of RUN, but for locks. A study in PostgreSQL is read from the database and written to DIR/study.db; the
records of the copy are compared with those of the study. What either has from then on, the other one does not get.
RUN must be at rest: the command refuses while a search, a training, a retraining or a remeasurement works in it.
"""
_STORAGE = "storage"  # key of a file of settings
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class CopySettings:
    """Settings of one ``backbone-nas copy`` command."""

    run: Path
    out: Path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code, see `nas.cli`."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_code(lambda: copy_run(parse(words)), "there is no copy, and the study is unchanged")


def copy_run(settings: CopySettings) -> int:
    """Copy a run folder and return 0; the copy appears as a whole at the end, or not at all.

    Raises:
        StoreError: There is no study, a command works on it, or there is something at the copy's place.
        OSError: A file cannot be read or written.
    """
    from nas.storage.errors import StoreError  # imports optuna: not for --help or a bad flag
    from nas.storage.store import Store

    run, out = settings.run, settings.out
    if out.resolve().is_relative_to(run.resolve()):
        raise StoreError(f"--out: {str(out)!r} is in the run folder itself; choose another folder")
    if out.exists() and any(out.iterdir()):
        raise StoreError(f"--out: {str(out)!r} has files; choose a new folder")
    with Store.open(run, read_only=True) as store:
        refuse_working(store, run)
        out.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(f".{out.name}.{socket.gethostname()}.", out.parent) as scratch:
            unfinished = scratch / "copy"
            unfinished.mkdir()
            _copy_files(run, unfinished)
            trials = plural(len(store.trials()), "trial")
            announce(f"copying the records of {trials}", _LOG)  # takes minutes where there are a thousand
            store.copy_to(unfinished)
            (unfinished / "study.lock").unlink()
            _forget_database(unfinished)
            refuse_working(store, run)
            unfinished.replace(out)
    write_line(f"copied {run} with {trials} to {out}")
    return 0


def refuse_working(store: Store, run: Path) -> None:
    """Raise StoreError where a command works in a run folder: its files would be of different moments.

    Args:
        store: The study.
        run: Its run folder.
    """
    from nas.storage.errors import StoreError
    from nas.storage.liveness import is_locked

    if drivers := store.living_drivers():
        host, pid, _ = drivers[0].rsplit(":", 2)
        raise StoreError(
            f"process {pid} on {host} searches or trains in {str(run)!r}; copy the folder when it has ended"
        )
    if locked := next((lock for lock in sorted(run.glob("*.lock")) if is_locked(lock)), None):
        raise StoreError(
            f"another command works in {str(run)!r} ({locked.name} is locked); copy it when that has ended"
        )


def _copy_files(run: Path, copy: Path) -> None:
    """Copy the files of a run folder, but for its study, its locks and what writers that were killed have left."""
    files = list(_files(run))
    sizes = [file.stat().st_size for file in files]
    done, total = 0, max(1, sum(sizes))
    progress = StageProgress(stderr_console())
    with progress.showing():
        for file, size in zip(files, sizes, strict=True):
            target = copy / file.relative_to(run)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
            done += size
            progress("copying: MB", done // 10**6, total // 10**6)


def _files(run: Path) -> Iterator[Path]:
    """Yield the files of a run folder that its copy needs; links are followed, as to weights on another disk."""
    from nas.storage.liveness import DRIVERS
    from nas.storage.location import LOCATION_FILE, STUDY_FILE

    seen = set()
    for folder, folders, names in os.walk(run, followlinks=True):
        here = Path(folder)
        seen.add(here.resolve())
        left_out = {DRIVERS} if here == run else set()
        folders[:] = [name for name in sorted(folders) if name not in left_out and (here / name).resolve() not in seen]
        for path in (here / name for name in sorted(names)):
            of_study = path.name == LOCATION_FILE or path.name.startswith(STUDY_FILE) or path.suffix == ".lock"
            if path.is_file() and path.suffix != ".tmp" and not (here == run and of_study):
                yield path


def _forget_database(copy: Path) -> None:
    """Remove the database from the settings of a copy: a search with them would need it."""
    from nas.search.config_file import FILE_NAME, config_text, recorded_run
    from nas.storage.store import Store

    recorded = recorded_run(copy)
    if _STORAGE not in recorded:
        return
    with Store.open(copy, read_only=True) as store:
        config = store.info.config
    run = {name: value for name, value in recorded.items() if name != _STORAGE}
    atomic_write(copy / FILE_NAME, config_text(config, run))


def parse(words: Sequence[str]) -> CopySettings:
    """Return the settings of a command line; SystemExit(2), one line, where it is wrong."""
    options = vars(parser().parse_args(words))
    return CopySettings(options["run"], options["out"])


def parser() -> OneLineParser:
    """Build the parser."""
    built = OneLineParser(
        prog=f"{PROGRAM} copy",
        description="Copy a run folder with its study as a file, to share it, keep it or continue it elsewhere.",
        epilog=_EXAMPLES,
    )
    add = built.add_argument
    add_run(add)
    add(
        "--out", type=folder_to_write, required=True, metavar="DIR", help="folder of the copy, which is made (required)"
    )
    return built


if __name__ == "__main__":
    raise SystemExit(main())
