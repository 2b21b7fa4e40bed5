"""A contact sheet: rows and columns of small square pictures in one PNG that says itself what is where.

Searches write them (`nas.distill.evaluation.pictures`), reports cut them up again; labels are words, so they are
not drawn.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from nas.files import atomic_path

# Kinds of rows: the images, a teacher's maps, a student's prediction of them, the student's own maps.
IMAGE, TEACHER, STUDENT, OWN = "image", "teacher", "student", "own"
FOLDER = "pictures"  # in a run's folder
TILE_PX = 64
_KEY = "contact sheet"
_MOST_TILES = 64  # a side: what is larger was not made here


class SheetError(ValueError):
    """A file that is no contact sheet."""


@dataclass(frozen=True)
class ContactSheet:
    """`tiles`: uint8 (rows, columns, TILE_PX, TILE_PX, 3), RGB. A row is (kind, teacher), the teacher
    "" where the row is about none; a column is what its image shows, "" where that is unknown."""

    rows: tuple[tuple[str, str], ...]
    columns: tuple[str, ...]
    tiles: NDArray[np.uint8]

    def write(self, path: Path) -> None:
        """Write the sheet as PNG, whole or not at all."""
        rows, columns = self.tiles.shape[:2]
        pixels = self.tiles.swapaxes(1, 2).reshape(rows * TILE_PX, columns * TILE_PX, 3)
        words = PngImagePlugin.PngInfo()
        words.add_text(_KEY, json.dumps({"rows": self.rows, "columns": self.columns}))
        with atomic_path(path) as unfinished:
            Image.fromarray(pixels).save(unfinished, "PNG", optimize=True, pnginfo=words)

    @classmethod
    def read(cls, path: Path) -> ContactSheet:
        """Inverse of `write`; SheetError for anything else."""
        try:
            with Image.open(path, formats=["PNG"]) as image:
                width, height = image.size
                if max(width, height) > _MOST_TILES * TILE_PX:
                    raise SheetError(f"{path}: {width} x {height} pixels are too many for a contact sheet")
                pixels = np.asarray(image.convert("RGB"))
                words = json.loads(image.text[_KEY])  # type: ignore[attr-defined]
            rows = tuple((str(kind), str(teacher)) for kind, teacher in words["rows"])
            columns = tuple(map(str, words["columns"]))
            return cls(rows, columns, _tiles(pixels, len(rows), len(columns)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SyntaxError) as error:
            if isinstance(error, SheetError):
                raise
            raise SheetError(f"{path}: no contact sheet: {error}") from error


def _tiles(pixels: NDArray[Any], rows: int, columns: int) -> NDArray[np.uint8]:
    """(rows * T, columns * T, 3) to (rows, columns, T, T, 3)."""
    return pixels.reshape(rows, TILE_PX, columns, TILE_PX, 3).swapaxes(1, 2)


def sheet_path(folder: Path, arch_id: str) -> Path:
    """Where the sheet of an architecture lies."""
    return folder / f"{arch_id}.png"
