"""A .npy file written batch by batch, when its length is known only at the end."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray


class ArrayWriter:
    """Appends rows of a fixed shape to `path`; a context manager, whose end writes the true length into the header.

    numpy pads headers so that the first axis can grow in place.
    """

    def __init__(self, path: Path, dtype: DTypeLike, row_shape: tuple[int, ...]) -> None:
        self.path, self.dtype, self.row_shape = path, np.dtype(dtype), row_shape
        self.count = 0
        self.file: BinaryIO = path.open("wb")
        self.write_header()

    def append(self, rows: NDArray[Any]) -> None:
        """Rows (N, *row_shape), converted to the file's dtype."""
        if rows.shape[1:] != self.row_shape:
            raise ValueError(f"{self.path.name}: rows of shape {rows.shape[1:]}, not {self.row_shape}")
        self.file.write(np.ascontiguousarray(rows, dtype=self.dtype).tobytes())
        self.count += len(rows)

    def write_header(self) -> None:
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.count, *self.row_shape)}
        np.lib.format.write_array_header_1_0(self.file, header)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.seek(0)
        self.write_header()
        self.file.close()
