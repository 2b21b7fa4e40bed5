"""`webdataset:PATTERN`: images in tar shards, on this machine or behind HTTP.

The seed shuffles the shards, and only as many are opened as the requested images need: samples should have been
mixed when the shards were written. Patterns: ``train-{0000..0099}.tar``, ``train-*.tar`` (local only),
``https://host/{00..99}.tar``; ``TRAIN::VAL`` gives each split its pattern; ``...#ignore=11`` or
``#ignore=0,255`` makes mask values void. ``::`` inside the host of a URL does not separate, so IPv6 hosts are possible:
``https://[2001:db8::1]/{00..89}.tar::https://[2001:db8::1]/{90..99}.tar``.

A ``classes.json`` in the folder of the (training) shards, a list of strings, names the labels' classes; where images
have masks but no labels, it names the mask values, and larger values are void.
"""

from __future__ import annotations

import io
import os
import random
import re
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import ceil, prod
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from braceexpand import braceexpand
from PIL import Image

from nas.data.dataset import (
    IGNORE_LABEL,
    CorruptImage,
    DataError,
    Pixels,
    Progress,
    Sample,
    Split,
    decode,
    decode_mask,
    digest,
    evenly_spaced,
    held_out,
    identities,
    left_out_note,
    printable,
    shuffled,
    square,
    square_mask,
)
from nas.data.download import Absent, fetch, is_remote, local_path, without_signature
from nas.data.tar_index import IMAGE_FIELDS, TarSample, read_index
from nas.files import atomic_write, parse_json
from nas.numbers import plural
from nas.redaction import public_word, split_patterns

QUIET_S = 2.0  # a selection of local shards that takes longer reports its progress

NAMES_FILE = "classes.json"

MAX_SHARDS = 1_000_000
_BRACES = re.compile(r"\{(?P<first>-?\d+|[A-Za-z])\.\.(?P<last>-?\d+|[A-Za-z])(\.\.-?\d+)?\}|[{},]")
MAX_COUNTED_MASKS = 1000  # masks read to count their classes; a larger set is sampled evenly


def sources(pattern: str) -> list[str]:
    """Return the shards of a pattern, paths or URLs; DataError for a local one that is missing."""
    shards: list[str] = []
    for part in expand(pattern):
        if is_remote(part):
            shards.append(part)
            continue
        path = Path(part)
        matches = sorted(str(file) for file in path.parent.glob(path.name)) or [part]
        if not Path(matches[0]).is_file():
            raise DataError(f"--data webdataset: no such shard '{part}' (pattern '{pattern}')")
        shards += matches
    return shards


def expand(pattern: str) -> list[str]:
    """Expand the pattern's braces. DataError for sources that cannot be read or must not be run."""
    scheme = pattern.partition(":")[0]
    if scheme == "pipe":
        raise DataError("--data webdataset: 'pipe:' would run a shell command; allowed: paths, http:// and https://")
    if "://" in pattern and not is_remote(pattern):
        raise DataError(f"--data webdataset: '{scheme}://' cannot be read; allowed: paths, http:// and https://")
    if is_remote(pattern) and "*" in pattern:
        raise DataError(
            f"--data webdataset: '*' in '{public_word(pattern)}': a server lists no files; use {{0000..0099}}"
        )
    from webdataset.shardlists import envsubst  # imports torch, which takes seconds: only for this source

    try:
        plain = envsubst(pattern if is_remote(pattern) else str(Path(pattern).expanduser()))
        if _count_parts(plain) > MAX_SHARDS:
            raise DataError(f"--data webdataset: '{public_word(pattern)}': more than {MAX_SHARDS:,} shards")
        parts = list(braceexpand(plain))
    except DataError:
        raise
    except (ValueError, AssertionError) as error:  # unbalanced braces, an unset ${variable}
        raise DataError(f"--data webdataset: cannot read the pattern '{public_word(pattern)}': {error}") from error
    for url in filter(is_remote, parts):
        check_url(url)
    return parts


def _count_parts(pattern: str) -> int:
    """Return how many parts a pattern's braces stand for, at most; braceexpand would make a list of each range."""
    open_braces = [(0, 1)]  # of each: the parts of its earlier alternatives, those of the present one
    for token in _BRACES.finditer(pattern):
        earlier, present = open_braces.pop()
        if token["first"]:
            first, last = (
                int(end) if len(end) > 1 or end.isdigit() else ord(end) for end in token.group("first", "last")
            )
            open_braces.append((earlier, present * (abs(last - first) + 1)))
        elif token[0] == "{":
            open_braces += [(earlier, present), (0, 1)]
        elif token[0] == "," and open_braces:
            open_braces.append((earlier + present, 1))
        elif token[0] == "}" and open_braces:
            outer, factor = open_braces.pop()
            open_braces.append((outer, factor * (earlier + present)))
        else:
            open_braces.append((earlier, present))
    return prod(earlier + present for earlier, present in open_braces)


def check_url(url: str) -> None:
    """Raise DataError where the host of a URL cannot be read."""
    try:
        readable = bool(urlsplit(url).hostname and urlsplit(url).port != 0)
    except ValueError:  # an open bracket, a port that is no number; the message may repeat a secret
        readable = False
    if not readable:
        raise DataError(f"--data webdataset: '{public_word(url)}' is not a file's URL; an IPv6 host needs brackets")


def train_and_val(pattern: str) -> tuple[str, str | None]:
    """Split ``TRAIN::VAL``; None where the pattern serves both splits. DataError for more than two, or an empty one."""
    train, *val = split_patterns(pattern)
    if len(val) > 1 or not all((train, *val)):
        raise DataError(f"--data webdataset: '{public_word(pattern)}': allowed: PATTERN or TRAIN::VAL")
    return train, val[0] if val else None


def parse_ignored(text: str) -> tuple[int, ...]:
    """Parse the mask values of ``11`` or ``0,255``; an empty text has none."""
    values = [part.strip() for part in text.split(",")] if text else []
    for value in values:
        if not (value.isascii() and value.isdigit() and int(value) <= IGNORE_LABEL):
            raise DataError(f"--data webdataset: #ignore={text}: '{value}' is not a mask value; allowed: 0 to 255")
    return tuple(sorted({int(value) for value in values}))


def read_names(source: str, folder: Path) -> tuple[str, ...] | None:
    """Read the classes' names, None without such a file; DataError if it holds no list of strings."""
    path = Path(source)
    if is_remote(source):
        try:
            path = fetch(source, folder, parse_names, lambda here, total: None)
        except Absent:
            return None
    return parse_names(path) if path.is_file() else None


def record_names(names: tuple[str, ...] | None, source: str, folder: Path) -> None:
    """Note that there are no classes' names, so that cached shards can be read without a network.

    Only once shards were read: a server that refuses an expired signature answers as if there were no such file.
    """
    if names is None and is_remote(source):
        atomic_write(local_path(source, folder), "null")


def parse_names(path: Path) -> tuple[str, ...] | None:
    """Return the names in a JSON file; None for null."""
    try:
        names = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"--data webdataset: cannot read '{path}': {error}") from error
    if names is not None and not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise DataError(f"--data webdataset: '{path}' holds {str(names)[:40]!r}; allowed: a list of strings")
    return None if names is None else tuple(names)


def names_source(shard: str) -> str:
    """Return the path or URL of the classes' names for a shard."""
    if not is_remote(shard):
        return str(Path(shard).parent / NAMES_FILE)
    parts = urlsplit(shard)
    return parts._replace(path=f"{parts.path.rpartition('/')[0]}/{NAMES_FILE}").geturl()


def count_classes(samples: list[TarSample], names: tuple[str, ...] | None) -> int | None:
    """Count the classes by the names or, without names, by the labels; None unless every sample has a label."""
    labels = [sample.label for sample in samples if sample.label is not None]
    if len(labels) < len(samples):
        return None
    if names and max(labels) >= len(names):
        key = next(sample.key for sample in samples if sample.label == max(labels))
        raise DataError(
            f"--data webdataset: {key} has the label {max(labels)}; {NAMES_FILE} allows 0 to {len(names) - 1}"
        )
    return len(names) if names else max(labels) + 1


@dataclass(frozen=True)
class Shards:
    """The images of one split in the shards at `paths`; labels and masks are used only if every sample has one."""

    samples: tuple[TarSample, ...]
    paths: tuple[Path, ...]
    size_px: int
    uri: str
    num_classes: int | None
    names: tuple[str, ...] | None
    ignored: tuple[int, ...]
    available: int
    notes: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Return the labels' names, None without labels or names."""
        return None if self.num_classes is None else self.names

    @cached_property
    def has_masks(self) -> bool:
        """Tell whether every sample has a mask."""
        return all(sample.mask for sample in self.samples)

    @cached_property
    def mask_classes(self) -> int | None:
        """Return the number of classes in masks: of the names, else of the largest value in up to 1,000 masks."""
        if not self.has_masks:
            return None
        if self.names and self.num_classes is None:
            return min(len(self.names), IGNORE_LABEL)
        return 1 + max(self.largest(self.samples[i]) for i in evenly_spaced(len(self), MAX_COUNTED_MASKS))

    def largest(self, sample: TarSample) -> int:
        """Return the largest class in a whole mask; 0 where it cannot be read."""
        try:
            mask = self.void_ignored(np.asarray(mask_of(sample)))
        except CorruptImage:
            return 0
        return int(mask[mask != IGNORE_LABEL].max(initial=0))

    def void_ignored(self, mask: Pixels) -> Pixels:
        """Return the mask with ignored values as IGNORE_LABEL."""
        return np.where(np.isin(mask, self.ignored), np.uint8(IGNORE_LABEL), mask)

    @cached_property
    def fingerprint(self) -> str:
        """Return a digest of the shards, the samples, the classes and the size.

        The digest includes each sample's label and the sizes of its files: a rewritten shard may have the size, the
        first and the last bytes of the old one.
        """
        classes = [self.num_classes, self.names, self.ignored]
        samples = ((s.key, s.label, s.image.size, s.mask and s.mask.size) for s in self.samples)
        return digest(["webdataset", 4, self.size_px, classes, identities(self.paths), *samples])

    def at_size(self, size_px: int) -> Shards:
        """Return the set of the same scenes as squares of another size."""
        return replace(self, size_px=size_px)

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, i: int) -> Sample:
        """Read sample `i`; CorruptImage if its image or mask cannot be decoded."""
        return self.read_sizes(i, (self.size_px,))[self.size_px]

    def read_sizes(self, i: int, sizes_px: Collection[int]) -> dict[int, Sample]:
        """Read sample `i` at several sizes; CorruptImage if its image or mask cannot be decoded."""
        sample = self.samples[i]
        image = decode(io.BytesIO(sample.image.read()), sample.key)
        mask = mask_of(sample) if self.has_masks else None
        label = None if self.num_classes is None else sample.label
        masks = {px: None if mask is None else self.void_ignored(square_mask(mask, px)) for px in sizes_px}
        return {px: Sample(square(image, px), label, masks[px]) for px in sizes_px}


def check_pattern(pattern: str) -> None:
    """Raise DataError for a pattern that cannot be read, a local shard that is missing, or one that is in both splits.

    Nothing is opened. A shard of both splits is found by its path, links followed, or by its URL; its copy is not.
    """
    train, val = train_and_val(pattern.partition("#ignore=")[0])
    of_train = {_location(source) for source in sources(train)}
    shared = [source for source in sources(val) if _location(source) in of_train] if val is not None else []
    if shared:
        raise DataError(
            f"--data webdataset: TRAIN and VAL share {plural(len(shared), 'shard')}, as '{public_word(shared[0])}':"
            " held-out images would be trained on; name other shards for one of them"
        )


def _location(source: str) -> str:
    """Return the place of a shard, which is the same under other spellings of its path and other signatures."""
    return without_signature(source) if is_remote(source) else os.path.realpath(source)


def absolute_pattern(pattern: str) -> str:
    """Return a pattern whose relative paths begin at the root; URLs, and parts that begin with a brace, stay."""
    bare, mark, ignored = pattern.partition("#ignore=")
    parts = [
        part if is_remote(part) or part[0] in "{$" else str(Path(part).expanduser().absolute())
        for part in split_patterns(bare)
    ]
    return f"{'::'.join(parts)}{mark}{ignored}"


def open_shards(
    pattern: str, split: Split, count: int | None, seed: int, size_px: int, cache_dir: Path, progress: Progress
) -> Shards:
    """Open the shards of a pattern; remote ones are kept in `cache_dir`/shards.

    With a single pattern, a hash of the sample's key decides on the split. Raises DataError if a shard is missing or
    unreadable, or the split is empty.
    """
    bare, _, ignored = pattern.partition("#ignore=")
    train, val = train_and_val(bare)
    split_pattern = val if val is not None and split == "val" else train
    folder = cache_dir / "shards"
    about_names = names_source(expand(train)[0])
    names = read_names(about_names, folder)
    selection = ShardSelection(split, val is not None, seed, count, folder)
    selection.collect(shuffled(sources(split_pattern), seed, shard_name), progress)
    record_names(names, about_names, folder)
    if not selection.samples:
        raise DataError(
            f"--data webdataset: no {split} images in '{public_word(split_pattern)}'"
            f" ({selection.indexed} in all; fields {IMAGE_FIELDS})"
        )
    chosen = shuffled(selection.samples[:count], seed, key_of)
    classes, void = count_classes(selection.samples, names), parse_ignored(ignored)
    uri = f"webdataset:{public_word(pattern)}"  # manifests and reports show it
    notes = (*selection.notes(), *incomplete("label", selection.samples), *incomplete("mask", chosen))
    paths, available = tuple(selection.paths), len(selection.samples)
    return Shards(tuple(chosen), paths, size_px, uri, classes, names, void, available, notes)


def shard_name(source: str) -> str:
    """Return a shard's file name, with what a URL asks for: servers may name the file in a parameter."""
    name = public_word(source).rpartition("/")[2]
    asked = urlsplit(without_signature(source)).query if is_remote(source) else ""
    return f"{name}?{asked}" if asked else name


def incomplete(what: str, samples: list[TarSample]) -> tuple[str, ...]:
    """Return a note where some samples, but not all, have a label or a mask, so that none is used."""
    without = [sample.key for sample in samples if getattr(sample, what) is None]
    if not without or len(without) == len(samples):
        return ()
    lacking = f"{len(without):,} of {plural(len(samples), 'sample')} {'has' if len(without) == 1 else 'have'} no {what}"
    return (printable(f"{what}s are not used: {lacking}, as '{without[0]}'"),)


class ShardSelection:
    """The samples of one split, shard by shard, until there are `count`.

    Remote shards are kept in `folder`, indexes in `shard-indexes` next to it.
    """

    def __init__(self, split: Split, all_samples: bool, seed: int, count: int | None, folder: Path) -> None:
        self.split, self.all_samples, self.seed, self.count, self.folder = split, all_samples, seed, count, folder
        self.indexes = folder.with_name("shard-indexes")
        self.samples: list[TarSample] = []
        self.paths: list[Path] = []
        self.indexed = 0  # samples of both splits
        self.left_out: dict[str, list[str]] = {}  # reason -> names
        self.unread = 0  # shards
        self.fetched = 0  # bytes
        self.began, self.reported = time.monotonic(), 0  # start of the reading, number of shards in the last report

    def collect(self, shards: list[str], progress: Progress) -> None:
        """Index as many of the shards as `count` needs."""
        stage, self.began = f"{self.split} shards, MiB", time.monotonic()
        ahead = 0  # number of the first shard that is not indexed
        for number, shard in enumerate(shards):
            name, path = public_word(shard), Path(shard)
            if number == ahead:
                ahead = self.index_ahead(shards, number, progress)
            if is_remote(shard):
                path = self.fetch(shard, self.expected_shards(len(shards) - number), partial(progress, stage))
            index, left_out = read_index(path, name, self.indexes)
            for reason, names in left_out.items():
                self.left_out.setdefault(reason, []).extend(names)
            selected = [sample for sample in index if self.all_samples or held_out(sample.key) == (self.split == "val")]
            self.samples += shuffled(selected, self.seed, key_of)
            self.paths.append(path)
            self.indexed += len(index)
            if not is_remote(shard):
                read = number + 1
                self.report(read, read + max(0, self.expected_shards(len(shards) - read)), progress)
            if self.count and len(self.samples) >= self.count:
                self.unread = len(shards) - number - 1
                break
        if self.fetched:
            progress(stage, self.fetched >> 20, self.fetched >> 20)

    def index_ahead(self, shards: list[str], number: int, progress: Progress) -> int:
        """Index local shards from `number` on in a random order, as many as before at most; the selection has its own.

        Processes that begin together, as those of a `cache build`, thus index different shards, and read each other's
        kept indexes. Remote shards are left to the selection, which fetches them.

        Returns:
            The number of the first shard that is left.
        """
        expected = self.expected_shards(len(shards) - number)
        window = shards[number : number + max(1, min(number, expected))]
        if len(window) > 1 and not is_remote(window[0]):
            for read, shard in enumerate(random.Random().sample(window, len(window)), number + 1):
                with suppress(DataError):  # raised again if the selection comes to this shard
                    read_index(Path(shard), public_word(shard), self.indexes)
                self.report(read, number + expected, progress)
        return number + len(window)

    def report(self, read: int, total: int, progress: Progress) -> None:
        """Report the number of local shards that are indexed, if it takes longer than QUIET_S and has grown."""
        if read > self.reported and time.monotonic() - self.began > QUIET_S:
            self.reported = read
            progress(f"{self.split} shards", read, total)

    def notes(self) -> tuple[str, ...]:
        """Return a line for each reason why something was left out."""
        notes = [left_out_note(reason, names) for reason, names in self.left_out.items() if names]
        if self.unread:
            read = len(self.paths)
            notes.append(f"{self.split}: {read:,} of {read + self.unread:,} shards were read; they hold enough images")
        return tuple(notes)

    def fetch(self, url: str, expected: int, progress: Callable[[int, int], None]) -> Path:
        """Fetch a remote shard; report progress in MiB, assuming `expected` shards of its size, this one included."""

        def report(here: int, total: int) -> None:
            progress((self.fetched + here) >> 20, (self.fetched + expected * max(here, total)) >> 20)

        path = fetch(url, self.folder, partial(read_index, name=public_word(url)), report)
        self.fetched += path.stat().st_size
        return path

    def expected_shards(self, remaining: int) -> int:
        """Estimate how many of the remaining shards will be needed, from the samples in those before."""
        if self.count is None:
            return remaining
        if not self.samples:
            return 1
        return min(remaining, ceil((self.count - len(self.samples)) * len(self.paths) / len(self.samples)))


def key_of(sample: TarSample) -> str:
    """Return the name by which samples are ordered."""
    return sample.key


def mask_of(sample: TarSample) -> Image.Image:
    """Decode a sample's whole mask; CorruptImage if that fails."""
    return decode_mask(io.BytesIO(sample.mask.read() if sample.mask else b""), sample.key)
