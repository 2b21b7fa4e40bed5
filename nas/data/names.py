"""`classes.json` beside shards: the names of the classes, which also tell how many there are."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import NamedTemporaryFile
from urllib.parse import urlsplit

from nas.data.dataset import DataError
from nas.data.download import Absent, fetch, is_remote, local_path
from nas.data.tars import TarSample

NAMES_FILE = "classes.json"


def read_names(source: str, shelf: Path) -> tuple[str, ...] | None:
    """The classes' names, None where there is no such file; DataError for one that is no list of strings."""
    path = Path(source)
    if is_remote(source):
        try:
            path = fetch(source, shelf, parse_names, lambda here, total: None)
        except Absent:  # remembered, so that what is here can be read again without a network
            path = local_path(source, shelf)
            with NamedTemporaryFile("w", dir=shelf, prefix=".", delete=False) as scratch:
                scratch.write("null")
            Path(scratch.name).rename(path)
    return parse_names(path) if path.is_file() else None


def parse_names(path: Path) -> tuple[str, ...] | None:
    """Names in a JSON file; None for null."""
    try:
        names = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"--data webdataset: cannot read '{path}': {error}") from error
    if names is not None and not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise DataError(f"--data webdataset: '{path}' holds {str(names)[:40]!r}; allowed: a list of strings")
    return None if names is None else tuple(names)


def sibling(shard: str) -> str:
    """Path or URL of the classes' names for a shard."""
    if not is_remote(shard):
        return str(Path(shard).parent / NAMES_FILE)
    parts = urlsplit(shard)
    return parts._replace(path=f"{parts.path.rpartition('/')[0]}/{NAMES_FILE}").geturl()


def count_classes(samples: list[TarSample], names: tuple[str, ...] | None) -> int | None:
    """How many classes the names or, without names, the labels tell; None unless every sample has a label."""
    labels = [sample.label for sample in samples if sample.label is not None]
    if len(labels) < len(samples):
        return None
    if names and max(labels) >= len(names):
        key = next(sample.key for sample in samples if sample.label == max(labels))
        raise DataError(
            f"--data webdataset: {key} has the label {max(labels)}; {NAMES_FILE} allows 0 to {len(names) - 1}"
        )
    return len(names) if names else max(labels) + 1
