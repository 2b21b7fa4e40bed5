"""Which labels of the front's picture would cover others: these are left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

PICTURE_PX = 820, 370  # inside the axes, on a desktop
LETTER_PX = 6.6, 13


class Labelled(Protocol):
    """A net in the plane of the objectives with its name beside it."""

    @property
    def label(self) -> str: ...
    @property
    def ratio(self) -> float: ...
    @property
    def quality(self) -> float | None: ...


Net = TypeVar("Net", bound=Labelled)


def overlapping(nets: Sequence[Net], ratios: tuple[float, float], qualities: tuple[float, float]) -> list[Net]:
    """Those whose label would cover that of another net, which comes before in `nets`."""
    across = PICTURE_PX[0] / math.log2(ratios[1] / ratios[0])
    up = PICTURE_PX[1] / (qualities[1] - qualities[0])
    taken: list[tuple[float, float, float]] = []  # left, right, height
    crowded = []
    for p in nets:
        left, height = across * math.log2(p.ratio), up * (p.quality or 0.0)
        right = left + LETTER_PX[0] * len(p.label) + 10
        if any(left < r and right > a and abs(height - h) < LETTER_PX[1] for a, r, h in taken):
            crowded.append(p)
        else:
            taken.append((left, right, height))
    return crowded
