"""Build, verify, list and delete caches of teacher features."""

from __future__ import annotations

import logging
import time
from datetime import datetime
from pathlib import Path

from nas.cache.arguments import BuildSettings, CacheSettings, DeleteSettings, VerifySettings
from nas.cache.build import STUDY_SEED, open_targets
from nas.cache.entry import CacheError
from nas.cache.estimate import summarize
from nas.cache.inventory import INCOMPLETE, delete_entries, list_entries
from nas.cache.targets import check_is_set
from nas.cache.verify import MIN_COSINE, TeacherAgreement, verify_set
from nas.cli import FAILED, one_line, report_error
from nas.command_log import announce
from nas.machine import cache_root
from nas.numbers import format_bytes, plural
from nas.stage_progress import StageProgress
from nas.teachers import enlarged_maps, specs
from nas.terminal import stderr_console, write_line

DAY_S = 86400.0
_LOG = logging.getLogger(__name__)


def manage_cache(settings: CacheSettings) -> int:
    """Run a sub-command and return the exit code."""
    root = cache_root(settings.cache)
    if isinstance(settings, BuildSettings):
        return _build(settings, root)
    if isinstance(settings, VerifySettings):
        return _verify(settings, root)
    return _delete(settings, root) if isinstance(settings, DeleteSettings) else _list(root)


def _build(settings: BuildSettings, root: Path) -> int:
    """Build the missing entries and print a summary."""
    console = stderr_console()
    progress = StageProgress(console)
    grid = settings.grid or settings.img_size // 16
    if enlarged := enlarged_maps(specs(settings.teachers, settings.weights), grid, settings.img_size):
        announce(f"warning: {enlarged}", _LOG, console, logging.WARNING)
    with progress.showing():
        targets = open_targets(
            settings.data,
            settings.teachers,
            root=root,
            train_images=settings.train_images,
            val_images=settings.val_images,
            image_px=settings.img_size,
            grid=grid,
            seed=STUDY_SEED,
            views=settings.views,
            precision=settings.teacher_precision,
            storage=settings.target_dtype,
            share=settings.share,
            weights=settings.weights,
            progress=progress,
            announce=lambda line: announce(line, _LOG, console),
        )
    write_line(summarize(targets.path))
    return 0


def _verify(settings: VerifySettings, root: Path) -> int:
    """Hash the sets' files and run their teachers; return 1 if a set is damaged or a teacher disagrees."""
    for path in map(Path, settings.sets):
        check_is_set(path)  # what is no set is no damage
    paths = [Path(path) for path in settings.sets] or sorted(root.glob("set-*.json"))
    if not paths:
        raise CacheError(f"--cache: no finished cache in {root}; backbone-nas cache build makes one")
    return max([_verify_set(path, settings) for path in paths])


def _verify_set(path: Path, settings: VerifySettings) -> int:
    """Verify one set and print every head's agreement; return the exit code."""
    write_line(path)
    try:
        agreements = verify_set(path, settings.samples, settings.weights)
    except (CacheError, OSError) as error:
        write_line(f"  error: {one_line(error)}")
        return FAILED
    except ValueError as error:  # of images or teachers
        return report_error(error)
    for agreement in agreements:
        write_line(f"  {agreement_line(agreement)}")
    return int(not all(agreement.agrees for agreement in agreements))


def agreement_line(agreement: TeacherAgreement) -> str:
    """Describe the agreement of one head in a line."""
    limit = "" if agreement.agrees else f", below {MIN_COSINE}"
    return (
        f"{agreement.teacher} {agreement.head}: cosine of stored to live targets {agreement.stored:.4f}{limit};"
        f" of decompressed to live features {agreement.decompressed:.4f} on {plural(agreement.images, 'image')}"
        f" ({agreement.built:.4f} on all held-out images during the build)"
    )


def _list(root: Path) -> int:
    """Print a table of the entries.

    Raises:
        CacheError: There is no such folder.
    """
    if not root.is_dir():
        what = "is no folder" if root.exists() else "there is no such folder; backbone-nas cache build makes a cache"
        raise CacheError(f"--cache: {root}: {what}")
    entries = list_entries(root)
    rows = [("content", "images", "size", "last used", "state", "folder")]
    for entry in entries:
        used = datetime.fromtimestamp(entry.last_used).strftime("%Y-%m-%d %H:%M")
        size = format_bytes(entry.bytes)
        rows.append((entry.content, str(entry.images), size, used, entry.state, entry.folder.name))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        write_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    write_line(f"{format_bytes(sum(entry.bytes for entry in entries))} in {root}")
    return 0


def _delete(settings: DeleteSettings, root: Path) -> int:
    """Delete the entries that no process uses, and print each one."""
    oldest = time.time() - (settings.days or 0) * DAY_S
    chosen = [
        entry
        for entry in list_entries(root)
        if settings.all
        or (settings.incomplete and entry.state == INCOMPLETE)
        or (settings.days is not None and entry.last_used < oldest)
    ]
    freed = 0
    for entry, deleted in delete_entries(root, chosen, settings.dry_run):
        freed += entry.bytes * deleted
        action = ("would delete" if settings.dry_run else "deleted") if deleted else "in use, not deleted:"
        write_line(f"{action} {entry.folder.name} ({entry.content}, {format_bytes(entry.bytes)})")
    write_line(f"{format_bytes(freed)} {'would be freed' if settings.dry_run else 'freed'}")
    return 0
