"""Contact sheets: rows and columns of small square pictures in one PNG, with the labels in its metadata.

Searches write them (`nas.distill.evaluation.pictures`), and reports cut them into their pictures.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from nas.files import atomic_path, parse_json

# Kinds of rows: the images, a teacher's maps, the student's prediction of them, the student's maps.
IMAGE, TEACHER, STUDENT, OWN = "image", "teacher", "student", "own"
TILE_PX = 64
_KEY = "contact sheet"
_MAX_TILES = 64  # a side; larger files are refused before they are decoded


class SheetError(ValueError):
    """A file that is no contact sheet."""


@dataclass(frozen=True)
class ContactSheet:
    """A contact sheet.

    Attributes:
        rows: (kind, teacher) of each row; the teacher is "" for rows of no teacher.
        columns: Class of each column's image, "" if it is unknown.
        tiles: RGB, uint8 (rows, columns, TILE_PX, TILE_PX, 3).
    """

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
        """Read the sheet from a file of `write`; SheetError for any other file."""
        try:
            with Image.open(path, formats=["PNG"]) as image:
                width, height = image.size
                if max(width, height) > _MAX_TILES * TILE_PX:
                    raise SheetError(f"{path}: {width} x {height} pixels are too many for a contact sheet")
                pixels = np.asarray(image.convert("RGB"))
                words = parse_json(image.text[_KEY])  # type: ignore[attr-defined]
            rows = tuple((str(kind), str(teacher)) for kind, teacher in words["rows"])
            columns = tuple(map(str, words["columns"]))
            return cls(rows, columns, _tiles(pixels, len(rows), len(columns)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SyntaxError) as error:
            if isinstance(error, SheetError):
                raise
            raise SheetError(f"{path}: no contact sheet: {error}") from error


def _tiles(pixels: NDArray[Any], rows: int, columns: int) -> NDArray[np.uint8]:
    """Cut pixels (rows * T, columns * T, 3) into tiles (rows, columns, T, T, 3)."""
    return pixels.reshape(rows, TILE_PX, columns, TILE_PX, 3).swapaxes(1, 2)
