"""Arrays in shards: .npy files of one split behind each other, written batch by batch, read through memory maps."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property, lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nas.cache.codecs import Codec
from nas.files import atomic_path

Rows = dict[str, NDArray[Any]]  # array -> rows
Index = slice | NDArray[np.integer[Any]]
MOST_OPEN = 16384  # maps a process keeps, if it may: what a batch reads is opened once, not in every step


class TargetArray(Protocol):
    """What may be assumed of an array of targets; a numpy array is one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Index, /) -> NDArray[Any]:
        """The rows of a slice or of an array of integers."""


class ShardedArray:
    """Rows of several files as one array; `counts` are the files' rows. Indexing gives a fresh array, decoded.

    Files are mapped when first read, and few stay open.
    """

    def __init__(self, paths: Sequence[Path], counts: Sequence[int], codec: Codec | None = None) -> None:
        self.paths, self.codec = tuple(paths), codec
        self.ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self.ends[-1])

    @cached_property
    def shape(self) -> tuple[int, ...]:
        stored = mapped(self.paths[0]).shape[1:]
        return (len(self), *stored) if self.codec is None else (len(self), len(self.codec.largest), *stored[1:])

    def __getitem__(self, index: Index) -> NDArray[Any]:
        wanted = np.arange(*index.indices(len(self))) if isinstance(index, slice) else np.asarray(index)
        if wanted.size and not -len(self) <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"{self.paths[0].parent.name}: no row {wanted.min()} or {wanted.max()} of {len(self)}")
        wanted = wanted % len(self)
        shards = np.searchsorted(self.ends, wanted, side="right")
        first = mapped(self.paths[0])
        rows = np.empty((len(wanted), *first.shape[1:]), dtype=first.dtype)
        order = np.argsort(shards, kind="stable")
        for here in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1) if wanted.size else ():
            shard = shards[here[0]]
            start = self.ends[shard - 1] if shard else 0
            rows[here] = mapped(self.paths[shard])[wanted[here] - start]
        return rows if self.codec is None else self.codec.decode(rows)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        rows = self[:]
        return rows if dtype is None else rows.astype(dtype, copy=False)


def open_files() -> int:
    """How many files this process may keep mapped: half of what the system allows it, which is asked for first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = 2 * MOST_OPEN if hard == resource.RLIM_INFINITY else min(hard, 2 * MOST_OPEN)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed // 2


@lru_cache(open_files())
def mapped(path: Path) -> NDArray[Any]:
    """A file's array, read only, on disk until it is touched."""
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    return array


class ArrayWriter:
    """Appends rows of a fixed shape to `path`; a context manager, whose end gives the file its length and its name.

    Until then, and after an exception, there is no such file. numpy pads headers so that the first axis can grow.
    """

    def __init__(self, path: Path, dtype: DTypeLike, row_shape: tuple[int, ...]) -> None:
        self.path, self.dtype, self.row_shape = path, np.dtype(dtype), row_shape
        self.count = 0
        self.stack = ExitStack()
        unfinished = self.stack.enter_context(atomic_path(path))
        self.file: BinaryIO = self.stack.enter_context(unfinished.open("wb"))
        self.write_header()
        self.stack.callback(self.complete_header)

    def append(self, rows: NDArray[Any]) -> None:
        """Rows (N, *row_shape), converted to the file's dtype."""
        if rows.shape[1:] != self.row_shape:
            raise ValueError(f"{self.path.name}: rows of shape {rows.shape[1:]}, not {self.row_shape}")
        self.file.write(np.ascontiguousarray(rows, dtype=self.dtype).tobytes())
        self.count += len(rows)

    def write_header(self) -> None:
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.count, *self.row_shape)}
        np.lib.format.write_array_header_1_0(self.file, header)

    def complete_header(self) -> None:
        self.file.seek(0)
        self.write_header()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.__exit__(kind, error, trace)


class ShardWriter:
    """Appends batches to the files of one shard, an array each; a context manager, see `ArrayWriter`."""

    def __init__(self, folder: Path, prefix: str, suffix: str = "") -> None:
        self.folder, self.prefix, self.suffix = folder, prefix, suffix
        self.writers: dict[str, ArrayWriter] = {}
        self.stack = ExitStack()

    @property
    def paths(self) -> list[Path]:
        return [writer.path for writer in self.writers.values()]

    @property
    def rows(self) -> int:
        return max((writer.count for writer in self.writers.values()), default=0)

    def append(self, rows: Rows) -> None:
        """Rows of every array."""
        for name, values in rows.items():
            if name not in self.writers:
                path = self.folder / f"{self.prefix}-{name}{self.suffix}.npy"
                self.writers[name] = self.stack.enter_context(ArrayWriter(path, values.dtype, values.shape[1:]))
            self.writers[name].append(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.__exit__(kind, error, trace)
