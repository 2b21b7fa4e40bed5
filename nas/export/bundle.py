"""A folder that appears whole or not at all, and takes no other folder's place."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nas.exporting.choice import ExportError

ABOUT = "export.json"  # in every export, with its format and files
FORMAT = "backbone-nas-export/1"


def check_room(out: Path, run_dir: Path, force: bool) -> None:
    """ExportError unless `out` is free, empty or an earlier export; with `force`, whatever it holds may go.

    What belongs to the study may not, nor the folder that the command is called in.
    """
    run, place = run_dir.resolve(), out.resolve()
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ExportError(f"--out: {str(out)!r} is no folder; choose another name")
    if (here := Path.cwd()) == place or place in here.parents:
        raise ExportError(f"--out: {str(out)!r} is the current folder, or holds it; choose another name")
    foreign = out.is_dir() and any(out.iterdir()) and not _is_export(out)
    if run == place or place in run.parents or (foreign and run in place.parents):
        raise ExportError(f"--out: {str(out)!r} holds the study, or a part of it; choose another folder")
    if foreign and not force:
        raise ExportError(
            f"--out: {str(out)!r} is not empty and no export; choose another folder, or --force to lose it"
        )
    if not foreign and not force and (added := _added(out)):
        raise ExportError(
            f"--out: {str(out)!r} has a file that no export wrote, {added[0]!r}; move it, or --force to lose it"
        )


def check_writable(out: Path) -> None:
    """ExportError where no folder can be made at `out`: found out before the work, by making one nearby."""
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=parent):
            pass
    except OSError as error:
        raise ExportError(f"--out: cannot write into {str(parent)!r} ({error.strerror})") from None


@contextmanager
def whole(out: Path, check: Callable[[], None]) -> Iterator[Path]:
    """A folder beside `out` to write into, which takes its place where the body ends, and is gone where it raises.

    check: raises where `out` may not be replaced; asked at the end, for a folder may have come while one trained.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        made = scratch / "new"
        made.mkdir()
        yield made
        check()
        if out.exists():
            _exchange(out, made, scratch / "old")
        else:
            made.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _exchange(out: Path, made: Path, old: Path) -> None:
    try:
        out.rename(old)
        made.rename(out)
    except BaseException:  # Ctrl-C too: `old` goes with the scratch folder
        if old.exists() and not out.exists():
            old.rename(out)
        raise


def files(folder: Path) -> list[str]:
    """What lies in a folder and below it, but for what Python makes of code that it runs."""
    found = (path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    return sorted(str(path.relative_to(folder)) for path in found if path.parent.name != "__pycache__")


def _added(export: Path) -> list[str]:
    """Files that somebody put beside an export."""
    if not _is_export(export):
        return []
    told = json.loads((export / ABOUT).read_text()).get("files")
    own = {ABOUT, *(told if isinstance(told, list) else ())}
    return [name for name in files(export) if name not in own]


def _is_export(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / ABOUT).read_text())["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return False
