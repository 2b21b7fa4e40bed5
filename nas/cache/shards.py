"""Write arrays batch by batch into .npy files, one file a shard, and read the files as one memory-mapped array."""

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

Rows = dict[str, NDArray[Any]]  # name of the array -> rows
Index = slice | NDArray[np.integer[Any]]
MAX_MAPPED_FILES = 16384  # per process, if the system allows it: opening a file again in every training step is slow


class TargetArray(Protocol):
    """The operations that an array of targets supports; numpy arrays support them too."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The rows and their shape."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Index, /) -> NDArray[Any]:
        """Return the rows of a slice or of an array of integers."""


class ShardedArray:
    """The rows of several files as one array. Indexing returns a new array, decoded by `codec`.

    Files are mapped when they are first read.

    Args:
        paths: The files, in order.
        counts: Each file's number of rows.
        codec: Decoder of the rows, None for plain arrays.
    """

    def __init__(self, paths: Sequence[Path], counts: Sequence[int], codec: Codec | None = None) -> None:
        self.paths, self.codec = tuple(paths), codec
        self.ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self.ends[-1])

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The number of rows and a decoded row's shape."""
        stored = mapped(self.paths[0]).shape[1:]
        return (len(self), *stored) if self.codec is None else (len(self), len(self.codec.largest), *stored[1:])

    def __getitem__(self, index: Index) -> NDArray[Any]:
        indices = np.arange(*index.indices(len(self))) if isinstance(index, slice) else np.asarray(index)
        if indices.size and not -len(self) <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"{self.paths[0].parent.name}: no row {indices.min()} or {indices.max()} of {len(self)}")
        indices = indices % len(self)
        shards = np.searchsorted(self.ends, indices, side="right")
        first = mapped(self.paths[0])
        rows = np.empty((len(indices), *first.shape[1:]), dtype=first.dtype)
        order = np.argsort(shards, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1) if indices.size else ():
            shard = shards[group[0]]
            start = self.ends[shard - 1] if shard else 0
            rows[group] = mapped(self.paths[shard])[indices[group] - start]
        return rows if self.codec is None else self.codec.decode(rows)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        rows = self[:]
        return rows if dtype is None else rows.astype(dtype, copy=False)


def max_mapped_files() -> int:
    """Raise this process's limit of open files if needed, and return how many it may keep mapped: half the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = 2 * MAX_MAPPED_FILES if hard == resource.RLIM_INFINITY else min(hard, 2 * MAX_MAPPED_FILES)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed // 2


@lru_cache(max_mapped_files())
def mapped(path: Path) -> NDArray[Any]:
    """Return a file's array as a read-only memory map."""
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    return array


class ArrayWriter:
    """A context manager that appends rows of a fixed shape to a .npy file.

    The file gets its header and its name at the end; after an exception it does not exist. numpy pads headers, so the
    final number of rows fits into the first header.
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
        """Append rows (N, *row_shape), converted to the file's dtype."""
        if rows.shape[1:] != self.row_shape:
            raise ValueError(f"{self.path.name}: rows of shape {rows.shape[1:]}, not {self.row_shape}")
        self.file.write(np.ascontiguousarray(rows, dtype=self.dtype).tobytes())
        self.count += len(rows)

    def write_header(self) -> None:
        """Write the header for the current number of rows."""
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.count, *self.row_shape)}
        np.lib.format.write_array_header_1_0(self.file, header)

    def complete_header(self) -> None:
        """Overwrite the first header."""
        self.file.seek(0)
        self.write_header()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.__exit__(kind, error, trace)


class ShardWriter:
    """A context manager that appends batches to the files of one shard, one file an array, see `ArrayWriter`."""

    def __init__(self, folder: Path, prefix: str, suffix: str = "") -> None:
        self.folder, self.prefix, self.suffix = folder, prefix, suffix
        self.writers: dict[str, ArrayWriter] = {}
        self.stack = ExitStack()

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return [writer.path for writer in self.writers.values()]

    @property
    def rows(self) -> int:
        """The number of rows so far."""
        return max((writer.count for writer in self.writers.values()), default=0)

    def append(self, rows: Rows) -> None:
        """Append rows of every array."""
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
