"""Write arrays batch by batch into .npy files, one file a shard, and read the files as one memory-mapped array.

A file ends with a checksum of each row, behind what numpy reads. A row is checked when a process first reads it: a
whole shard would be read from disk for the few rows of it that a short training needs.
"""

from __future__ import annotations

import io
import resource
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property, lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from nas.cache.codecs import Codec
from nas.cache.entry import ARRAY_SUFFIX, damage
from nas.files import atomic_path
from search_space.checks import regular_file

Rows = dict[str, NDArray[Any]]  # name of the array -> rows
Index = slice | NDArray[np.integer[Any]]
CHECKSUM = np.dtype("<u4")
# Per process, if the system allows it: opening a file again in every training step is slow. ImageNet with the teachers
# of AM-RADIO has 35,000 files. Each takes 2.8 KB of memory and one of the 65,530 maps that Linux grants by default.
MAX_MAPPED_FILES = 40_000


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

    Files are mapped when they are first read. Indexing raises CacheError for a damaged file.

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
        return (len(self), *mapped(self.paths[0]).array.shape[1:])

    def __getitem__(self, index: Index) -> NDArray[Any]:
        rows = self.stored(index)
        return rows if self.codec is None else self.codec.decode(rows)

    def stored(self, index: Index) -> NDArray[Any]:
        """Return the rows of a slice or of an array of integers as they are stored, not decoded."""
        indices = np.arange(*index.indices(len(self))) if isinstance(index, slice) else np.asarray(index)
        if indices.size and not -len(self) <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"{self.paths[0].parent.name}: no row {indices.min()} or {indices.max()} of {len(self)}")
        indices = indices % len(self)
        shards = np.searchsorted(self.ends, indices, side="right")
        first = mapped(self.paths[0]).array
        rows = np.empty((len(indices), *first.shape[1:]), dtype=first.dtype)
        order = np.argsort(shards, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1) if indices.size else ():
            shard = shards[group[0]]
            start = self.ends[shard - 1] if shard else 0
            rows[group] = mapped(self.paths[shard])[indices[group] - start]
        return rows

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        rows = self[:]
        return rows if dtype is None else rows.astype(dtype, copy=False)


def read_rows(array: TargetArray, index: Index, device: str | torch.device = "cpu") -> Tensor:
    """Return rows of an array as a new tensor on a device. A GPU gets them as they are stored and decodes them."""
    if torch.device(device).type != "cuda":
        return torch.from_numpy(array[index] if isinstance(array, ShardedArray) else np.array(array[index]))
    codec = array.codec if isinstance(array, ShardedArray) else None
    stored = array.stored(index) if isinstance(array, ShardedArray) else np.array(array[index])
    rows = torch.from_numpy(stored).pin_memory().to(device, non_blocking=True)
    return rows if codec is None else codec.decode_tensor(rows)


def max_mapped_files() -> int:
    """Raise this process's limit of open files if needed, and return how many it may keep mapped: half the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = 2 * MAX_MAPPED_FILES if hard == resource.RLIM_INFINITY else min(hard, 2 * MAX_MAPPED_FILES)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed // 2


class ArrayFile:
    """The rows of one file, memory-mapped; a row is checked when it is first read.

    Args:
        path: A file of `ArrayWriter`.

    Raises:
        CacheError: The file is no such array; also raised for a row that does not match its checksum.

    Attributes:
        array: The rows, read-only and unchecked.
    """

    def __init__(self, path: Path) -> None:
        try:
            with open(path, "rb", opener=regular_file) as file:  # once: it may lie on a network
                array = _map_array(file)
                file.seek(array.offset + array.nbytes)
                self._checksums = np.fromfile(file, CHECKSUM)
                file.seek(0)
                self._checksums ^= CHECKSUM.type(zlib.crc32(file.read(array.offset)))
        except FileNotFoundError as error:
            raise damage(path, "missing") from error
        except OSError:
            raise
        except Exception as error:  # of many types, as the header is Python code
            raise damage(path, "no readable array") from error
        if len(self._checksums) != len(array):
            raise damage(path, "truncated or altered (its rows and checksums differ in number)")
        self.array: NDArray[Any] = array.view(np.ndarray)
        self._path, self._unchecked = path, np.ones(len(array), dtype=bool)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: NDArray[np.integer[Any]] | Sequence[int]) -> NDArray[Any]:
        """Return a copy of the rows with these numbers, which are 0 or more."""
        numbers = np.asarray(rows)
        values: NDArray[Any] = self.array[numbers]
        new = np.flatnonzero(self._unchecked[numbers])
        if new.size:
            found = row_checksums(values[new])
            if wrong := np.flatnonzero(found != self._checksums[numbers[new]]).tolist():
                raise damage(self._path, f"altered (row {numbers[new][wrong[0]]} does not match its checksum)")
            self._unchecked[numbers] = False
        return values


def _map_array(file: BinaryIO) -> np.memmap[Any, Any]:
    """Map the array of an open .npy file; ValueError where it is none of `ArrayWriter`."""
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("another version of the format")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if fortran_order or dtype.hasobject:
        raise ValueError("another order, or no numbers")
    return np.memmap(file, dtype, "r", file.tell(), shape)


def row_checksums(rows: NDArray[Any]) -> NDArray[np.uint32]:
    """Return the CRC-32 of each row's bytes."""
    as_bytes = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
    return np.array([zlib.crc32(row.data) for row in as_bytes], dtype=CHECKSUM)


@lru_cache(max_mapped_files())
def mapped(path: Path) -> ArrayFile:
    """Return a file's rows; the map is shared by all callers in this process."""
    return ArrayFile(path)


class ArrayWriter:
    """A context manager that appends rows of a fixed shape to a .npy file, and then the rows' checksums.

    The file gets its header and its name at the end; after an exception it does not exist. numpy pads headers, so the
    final number of rows fits into the first header. A checksum is the row's XOR that of the header: a damaged header is
    a damage of every row.
    """

    def __init__(self, path: Path, dtype: DTypeLike, row_shape: tuple[int, ...]) -> None:
        self.path, self.dtype, self.row_shape = path, np.dtype(dtype), row_shape
        self.count = 0
        self.checksums: list[NDArray[np.uint32]] = []
        self.stack = ExitStack()
        unfinished = self.stack.enter_context(atomic_path(path, sync=True))
        self.file: BinaryIO = self.stack.enter_context(unfinished.open("wb"))
        self.file.write(self.header())
        self.stack.callback(self.complete)

    def append(self, rows: NDArray[Any]) -> None:
        """Append rows (N, *row_shape), converted to the file's dtype."""
        if rows.shape[1:] != self.row_shape:
            raise ValueError(f"{self.path.name}: rows of shape {rows.shape[1:]}, not {self.row_shape}")
        stored = np.ascontiguousarray(rows, dtype=self.dtype)
        self.file.write(stored.tobytes())
        self.checksums.append(row_checksums(stored))
        self.count += len(rows)

    def header(self) -> bytes:
        """Return the header for the current number of rows."""
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.count, *self.row_shape)}
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(buffer, header)
        return buffer.getvalue()

    def complete(self) -> None:
        """Append the checksums and overwrite the first header."""
        header = self.header()
        for checksums in self.checksums:
            self.file.write((checksums ^ CHECKSUM.type(zlib.crc32(header))).tobytes())
        self.file.seek(0)
        self.file.write(header)

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
                path = self.folder / f"{self.prefix}-{name}{self.suffix}{ARRAY_SUFFIX}"
                self.writers[name] = self.stack.enter_context(ArrayWriter(path, values.dtype, values.shape[1:]))
            self.writers[name].append(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.__exit__(kind, error, trace)
