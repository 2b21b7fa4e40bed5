"""What follows `webdataset:`: braces, globs, URLs, and the mask values that are void."""

from __future__ import annotations

from pathlib import Path

from webdataset.shardlists import expand_urls

from nas.data.dataset import IGNORE_LABEL, DataError
from nas.data.download import is_remote, public


def sources(pattern: str) -> list[str]:
    """Shards, paths or URLs, of a pattern; DataError for a local one that is missing."""
    shards: list[str] = []
    for part in expand(pattern):
        if is_remote(part):
            shards.append(part)
            continue
        path = Path(part)
        found = sorted(str(file) for file in path.parent.glob(path.name)) or [part]
        if not Path(found[0]).is_file():
            raise DataError(f"--data webdataset: no such shard '{part}' (pattern '{pattern}')")
        shards += found
    return shards


def expand(pattern: str) -> list[str]:
    """The pattern's braces written out. DataError for what cannot be read or must not be run."""
    scheme = pattern.partition(":")[0]
    if scheme == "pipe":
        raise DataError("--data webdataset: 'pipe:' would run a shell command; allowed: paths, http:// and https://")
    if "://" in pattern and not is_remote(pattern):
        raise DataError(f"--data webdataset: '{scheme}://' cannot be read; allowed: paths, http:// and https://")
    if is_remote(pattern) and "*" in pattern:
        raise DataError(f"--data webdataset: '*' in '{public(pattern)}': a server lists no files; use {{0000..0099}}")
    try:
        parts: list[str] = expand_urls(pattern if is_remote(pattern) else str(Path(pattern).expanduser()))
    except (ValueError, AssertionError) as error:  # unbalanced braces, an unset ${variable}
        raise DataError(f"--data webdataset: cannot read the pattern '{public(pattern)}': {error}") from error
    return parts


def parse_ignored(text: str) -> tuple[int, ...]:
    """Mask values of ``11`` or ``0,255``; none of an empty text."""
    values = [part.strip() for part in text.split(",")] if text else []
    for value in values:
        if not (value.isascii() and value.isdigit() and int(value) <= IGNORE_LABEL):
            raise DataError(f"--data webdataset: #ignore={text}: '{value}' is no mask value; allowed: 0 to 255")
    return tuple(sorted({int(value) for value in values}))
