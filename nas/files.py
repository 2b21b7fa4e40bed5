"""Files that are there whole or not at all: written under another name in the same folder, then renamed.

The other name ends in ``.tmp`` and belongs to one call of one process: a worker that outlives its killed driver never
writes into the file of its successor. What a killed process leaves is removed by the owners of the folders.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Yield a new path beside `path`; what the body wrote there takes the name `path`, or is removed if it raised.

    Another process may remove the unfinished file because it has finished the same one: then that one stays.

    Args:
        path: name of the finished file, in a folder that exists.
        sync: whether the content is on the disk before it gets its name, so that a power cut loses neither version.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield unfinished
        try:
            if sync:
                _sync(unfinished)
            unfinished.replace(path)
        except FileNotFoundError:
            if not path.exists():
                raise
    finally:
        unfinished.unlink(missing_ok=True)


def atomic_write(path: Path, content: str | bytes, *, sync: bool = False) -> None:
    """Write text (as UTF-8) or bytes to `path`, see `atomic_path`. OSError where the disk or the folder refuses."""
    with atomic_path(path, sync=sync) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
