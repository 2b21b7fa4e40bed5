"""Pictures of spatial features: a teacher's map, a student's prediction of it, and the student's own map.

Three principal directions become red, green and blue. A teacher's directions are fitted on its targets alone, so they
are the same for every student of a study, and a student's prediction is colored with the same directions and limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nas.cache.shards import read_rows
from nas.cache.targets import SplitTargets, Targets
from nas.distill.evaluation.explained_variance import images_at_once
from nas.distill.heads import Student, normalize
from nas.study.contact_sheet import IMAGE, OWN, STUDENT, TEACHER, TILE_PX, ContactSheet

IMAGES = 6
FITTED_IMAGES = 192  # held-out images that the directions are fitted on
PERCENTILES = (2.0, 98.0)  # become 0 and 255


@dataclass(frozen=True)
class Colors:
    """Mean (C,), directions (C, 3), and the coordinates on them that become 0 and 255: low and high (3,)."""

    mean: Tensor
    directions: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def fit(cls, maps: Tensor) -> Colors:
        """Fit the directions on maps (N, C, h, w)."""
        tokens = _tokens(maps)
        mean = tokens.mean(0)
        centered = tokens - mean
        _, vectors = torch.linalg.eigh(centered.T @ centered)  # ascending
        directions = vectors[:, -3:].flip(1)
        # An eigenvector's sign is arbitrary: its largest entry is made positive.
        directions = directions * directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
        low, high = np.percentile((centered @ directions).numpy(), PERCENTILES, axis=0)
        return cls(mean, directions, torch.from_numpy(low), torch.from_numpy(high))

    def paint(self, maps: Tensor) -> NDArray[np.uint8]:
        """Paint maps (N, C, h, w) as pictures (N, h, w, 3); gray where there are fewer directions than colors."""
        n, _, h, w = maps.shape
        values = (_tokens(maps) - self.mean) @ self.directions
        shares = (values - self.low) / (self.high - self.low).clamp(min=1e-9)
        painted = torch.full((n, h, w, 3), 128, dtype=torch.uint8)
        painted[..., : shares.shape[1]] = (shares.clamp(0, 1) * 255).round().to(torch.uint8).view(n, h, w, -1)
        return painted.numpy()


def contact_sheet(student: Student, targets: Targets, device: str | torch.device) -> ContactSheet:
    """Paint a student's maps of a few held-out images, the same images for every student of a study."""
    split = targets.val
    chosen, fitted = _chosen(split)
    position = {row: i for i, row in enumerate(fitted)}
    shown = [position[row] for row in chosen]
    images = read_rows(split.images, np.array(fitted))
    student_maps, predictions = _maps(student, images, device)
    rows = [((IMAGE, ""), images[shown].permute(0, 2, 3, 1).numpy())]
    for teacher in targets.teachers:
        target = read_rows(split.spatial[teacher], np.array(fitted))
        colors = Colors.fit(target)
        rows += [
            ((TEACHER, teacher), colors.paint(target[shown])),
            ((STUDENT, teacher), colors.paint(predictions[teacher][shown])),
        ]
    rows.append(((OWN, ""), Colors.fit(student_maps).paint(student_maps[shown])))
    tiles = np.stack([np.stack([_tile(picture) for picture in pictures]) for _, pictures in rows])
    return ContactSheet(tuple(label for label, _ in rows), _names(targets, chosen), tiles)


def _maps(student: Student, images: Tensor, device: str | torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the student's own maps of uint8 images (N, 3, S, S), and its predictions of every teacher's map."""
    own: list[Tensor] = []
    predicted: dict[str, list[Tensor]] = {}
    with torch.inference_mode():
        for part in torch.split(images, images_at_once(images.shape[-1])):
            features = student.encode(normalize(part.to(device)))
            own.append(features.spatial.float().cpu())
            for teacher, heads in student.heads.predict_targets(features).items():
                predicted.setdefault(teacher, []).append(heads["spatial"].cpu())
    return torch.cat(own), {teacher: torch.cat(maps) for teacher, maps in predicted.items()}


def _chosen(split: SplitTargets) -> tuple[list[int], list[int]]:
    """Choose images to show, spread evenly over any classes, and images to fit on, which include those."""
    count = len(split)
    order = np.arange(count) if split.labels is None else np.argsort(np.asarray(split.labels[:]), kind="stable")
    chosen = [int(order[i]) for i in _spread(count, IMAGES)]
    return chosen, sorted({*chosen, *(int(order[i]) for i in _spread(count, FITTED_IMAGES))})


def _spread(count: int, most: int) -> list[int]:
    """Return `most` indices below `count` in the middle of equal parts, or all."""
    return list(range(count)) if count <= most else [(2 * i + 1) * count // (2 * most) for i in range(most)]


def _names(targets: Targets, chosen: list[int]) -> tuple[str, ...]:
    """Return class names of the images shown, empty where they are unknown."""
    labels, names = targets.val.labels, targets.class_names
    if labels is None or names is None:
        return ("",) * len(chosen)
    return tuple(names[int(label)] for label in np.asarray(labels[np.array(chosen)]))


def _tile(picture: NDArray[Any]) -> NDArray[np.uint8]:
    """Resize a picture (h, w, 3) to a tile: photographs are averaged down, a map's cells stay squares with edges."""
    resampling = Image.Resampling.BOX if len(picture) > TILE_PX else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize((TILE_PX, TILE_PX), resampling))


def _tokens(maps: Tensor) -> Tensor:
    """Flatten (N, C, h, w) to (N h w, C) in float64."""
    return maps.double().movedim(1, -1).flatten(0, 2)
