"""The contact sheets of a run (`nas.contact_sheet`) for its page: each row becomes a strip that is embedded once.

All nets of a study were shown the same images and teachers, so those strips are shared between them.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nas.contact_sheet import FOLDER, IMAGE, OWN, STUDENT, TEACHER, TILE_PX, ContactSheet, SheetError
from reports.summary import Scored, StudySummary

GAP_PX = 4  # between the tiles of a strip, transparent
MOST_NETS = 24
AT_ONCE = 3  # nets whose pictures are seen before others are asked for, beside the best baseline
WORDS = {
    IMAGE: "the images",
    TEACHER: "{}: the teacher",
    STUDENT: "{}: what the net makes of it",
    OWN: "the net’s own map",
}


@dataclass(frozen=True)
class Strip:
    """A row of tiles as a data URI, `width` x `height` pixels."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Row:
    """A strip of a net's pictures: its words, its index in the gallery, and whether it begins a group."""

    words: str
    strip: int
    kind: str


@dataclass(frozen=True)
class Pictures:
    """A net's rows; `columns` are what the images show, empty where that is unknown."""

    net: Scored
    standing: str
    rows: tuple[Row, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Gallery:
    """The pictures of a page: those that are seen at once, those of the other nets, and all their strips."""

    first: tuple[Pictures, ...]
    more: tuple[Pictures, ...]
    strips: tuple[Strip, ...]


def gallery(run_dir: Path, summary: StudySummary) -> Gallery | None:
    """Pictures of the front's nets and the best baseline, as far as they lie in the run's folder; None if none do."""
    files = {path.stem: path for path in (run_dir / FOLDER).glob("*.png")}
    strips: dict[Strip, int] = {}
    found = []
    for net, standing in _nets(summary):
        if net.trial.arch_id in files:
            try:
                sheet = ContactSheet.read(files[net.trial.arch_id])
            except SheetError:
                continue  # a report does without what it cannot read
            found.append(Pictures(net, standing, tuple(_rows(sheet, strips)), sheet.columns))
    if not found:
        return None
    at_once = _at_once(found)
    return Gallery(
        tuple(p for p in found if p.net.trial.number in at_once),
        tuple(p for p in found if p.net.trial.number not in at_once),
        tuple(strips),
    )


def _nets(summary: StudySummary) -> list[tuple[Scored, str]]:
    """The front, fastest first, thinned out evenly where it is long, then the best baseline."""
    step = max(1, math.ceil(len(summary.front) / MOST_NETS))
    best = [] if summary.best_baseline is None else [(summary.best_baseline, "best baseline")]
    return [*((net, "on the front") for net in summary.front[::step]), *best]


def _at_once(found: Sequence[Pictures]) -> set[int]:
    """Numbers of the best, the fastest and a middle net, and of the baseline."""
    front = sorted((p for p in found if p.standing == "on the front"), key=lambda p: -p.net.quality)
    places = {i * (len(front) - 1) // (AT_ONCE - 1) for i in range(AT_ONCE)} if front else set()
    return {front[i].net.trial.number for i in places} | {
        p.net.trial.number for p in found if p.standing != "on the front"
    }


def _rows(sheet: ContactSheet, strips: dict[Strip, int]) -> Iterable[Row]:
    for (kind, teacher), tiles in zip(sheet.rows, sheet.tiles, strict=True):
        strip = _strip(tiles, photographs=kind == IMAGE)
        yield Row(WORDS.get(kind, kind).replace("{}", teacher), strips.setdefault(strip, len(strips)), kind)


def _strip(tiles: NDArray[Any], photographs: bool) -> Strip:
    """Tiles (columns, T, T, 3) in a row as WebP: maps exactly, photographs nearly."""
    pitch = TILE_PX + GAP_PX
    pixels = np.zeros((TILE_PX, len(tiles) * pitch - GAP_PX, 4), dtype=np.uint8)
    for i, tile in enumerate(tiles):
        pixels[:, i * pitch : i * pitch + TILE_PX] = np.dstack([tile, np.full(tile.shape[:2], 255, dtype=np.uint8)])
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "WEBP", lossless=not photographs, quality=82)
    uri = "data:image/webp;base64," + base64.b64encode(packed.getvalue()).decode()
    return Strip(uri, pixels.shape[1], TILE_PX)
