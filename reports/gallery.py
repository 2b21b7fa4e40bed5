"""Feature maps of a study's models for its report, from the contact sheets of a run (`nas.study.contact_sheet`).

Each row of a sheet becomes a strip. All sheets of a study show the same images and teachers: the report embeds those
strips once.
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

from nas.run_folder import PICTURES
from nas.study.contact_sheet import IMAGE, OWN, STUDENT, TEACHER, TILE_PX, ContactSheet, SheetError
from reports.figure_data import BASELINE, FRONT
from reports.scored_trials import ScoredTrial
from reports.summary import StudySummary

GAP_PX = 4  # between the tiles of a strip, transparent
MAX_MODELS = 24  # of the front
LABELS = {
    IMAGE: "images",
    TEACHER: "{}: teacher",
    STUDENT: "{}: student",
    OWN: "backbone features",
}


@dataclass(frozen=True)
class ImageStrip:
    """A row of tiles as a data URI of `width` x `height` pixels."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class GalleryRow:
    """One row of a model's sheet: its label, the index of its strip in the gallery, and its kind."""

    label: str
    strip: int
    kind: str


@dataclass(frozen=True)
class ModelSheet:
    """One model's rows; `columns` are the labels of the images, empty where they are unknown."""

    model: ScoredTrial
    status: str
    rows: tuple[GalleryRow, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Gallery:
    """The sheets of a report: those shown at first, the others, and the strips of all."""

    first: tuple[ModelSheet, ...]
    more: tuple[ModelSheet, ...]
    strips: tuple[ImageStrip, ...]


def read_gallery(run_dir: Path, summary: StudySummary) -> Gallery | None:
    """Read the sheets of the front and the best baseline from the run's folder; None if there are none."""
    files = {path.stem: path for path in (run_dir / PICTURES).glob("*.png")}
    strips: dict[ImageStrip, int] = {}
    sheets = []
    for model, status in _models(summary):
        if model.trial.arch_id in files:
            try:
                sheet = ContactSheet.read(files[model.trial.arch_id])
            except SheetError:
                continue  # an unreadable sheet must not cost the report
            sheets.append(ModelSheet(model, status, tuple(_rows(sheet, strips)), sheet.columns))
    if not sheets:
        return None
    shown = _first_shown(sheets)
    return Gallery(
        tuple(s for s in sheets if s.model.trial.number in shown),
        tuple(s for s in sheets if s.model.trial.number not in shown),
        tuple(strips),
    )


def _models(summary: StudySummary) -> list[tuple[ScoredTrial, str]]:
    """Return models with their status: the front, fastest first, then the best baseline.

    The front is evenly thinned to `MAX_MODELS`; the recommended model is kept.
    """
    step = max(1, math.ceil(len(summary.front) / MAX_MODELS))
    found = summary.recommendation and summary.recommendation.trial.number
    front = [(i, model, model.trial.number == found) for i, model in enumerate(summary.front)]
    chosen = f"{FRONT}, {summary.recommendation.word}" if summary.recommendation else FRONT
    kept = [(model, chosen if best else FRONT) for i, model, best in front if best or i % step == 0]
    best = [] if summary.best_baseline is None else [(summary.best_baseline, f"best {BASELINE}")]
    return [*kept, *best]


def _first_shown(sheets: Sequence[ModelSheet]) -> set[int]:
    """Return the numbers of the best, the fastest and the recommended model of the front, and of the baseline.

    Where the recommended one is the best or the fastest, or there is none, a middle model takes its place.
    """
    front = sorted((s for s in sheets if s.status.startswith(FRONT)), key=lambda s: -s.model.score)
    ends = [*front[:1], *front[-1:]]
    chosen = [s for s in front if s.status != FRONT and s not in ends]
    between = chosen or front[(len(front) - 1) // 2 :][:1]
    return {s.model.trial.number for s in (*ends, *between, *(s for s in sheets if s not in front))}


def _rows(sheet: ContactSheet, strips: dict[ImageStrip, int]) -> Iterable[GalleryRow]:
    for (kind, teacher), tiles in zip(sheet.rows, sheet.tiles, strict=True):
        strip = _strip(tiles, photographs=kind == IMAGE)
        yield GalleryRow(LABELS.get(kind, kind).replace("{}", teacher), strips.setdefault(strip, len(strips)), kind)


def _strip(tiles: NDArray[Any], photographs: bool) -> ImageStrip:
    """Encode tiles (columns, T, T, 3) side by side as WebP, without loss unless they are photographs."""
    pitch = TILE_PX + GAP_PX
    pixels = np.zeros((TILE_PX, len(tiles) * pitch - GAP_PX, 4), dtype=np.uint8)
    for i, tile in enumerate(tiles):
        pixels[:, i * pitch : i * pitch + TILE_PX] = np.dstack([tile, np.full(tile.shape[:2], 255, dtype=np.uint8)])
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "WEBP", lossless=not photographs, quality=82)
    uri = "data:image/webp;base64," + base64.b64encode(packed.getvalue()).decode()
    return ImageStrip(uri, pixels.shape[1], TILE_PX)
