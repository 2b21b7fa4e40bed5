"""A folder that appears whole or not at all, and takes no other folder's place."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas.exporting.choice import ExportError

ABOUT = "export.json"  # in every export, with its format
FORMAT = "backbone-nas-export/1"


def check_room(out: Path, run_dir: Path, force: bool) -> None:
    """ExportError unless `out` is free, empty or an earlier export; with `force`, whatever it holds may go.

    What belongs to the study may not.
    """
    run, place = run_dir.resolve(), out.resolve()
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ExportError(f"--out: {str(out)!r} is no folder; choose another name")
    foreign = out.is_dir() and any(out.iterdir()) and not _is_export(out)
    if run == place or place in run.parents or (foreign and run in place.parents):
        raise ExportError(f"--out: {str(out)!r} holds the study, or a part of it; choose another folder")
    if foreign and not force:
        raise ExportError(
            f"--out: {str(out)!r} is not empty and no export; choose another folder, or --force to lose it"
        )


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write into, which takes its place where the body ends, and is gone where it raises."""
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        made = scratch / "new"
        made.mkdir()
        yield made
        if out.exists():
            _exchange(out, made, scratch / "old")
        else:
            made.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _exchange(out: Path, made: Path, old: Path) -> None:
    out.rename(old)
    try:
        made.rename(out)
    except OSError:
        old.rename(out)
        raise


def _is_export(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / ABOUT).read_text())["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return False
