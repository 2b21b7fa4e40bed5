"""Which of the specs that nobody timed are worth it: by a predictor made from those that were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nas.latency import HeldOut, LatencyPredictor, Observation
from nas.records import Measurement
from search_space import ArchSpec

FEWEST = 20  # timed specs; of fewer, held-out errors are mostly luck
KEPT = 10


@dataclass(frozen=True)
class Shortlist:
    """Never shown as times: `error` says how far predictions lie from measurements that they had not seen."""

    error: HeldOut
    untimed: int
    arch_ids: tuple[str, ...]  # those most likely fast that have a fair chance to keep the limit, ten at most
    limit_img_s: float | None


def shortlist(
    timed: Sequence[tuple[ArchSpec, Measurement]],
    untimed: Sequence[ArchSpec],
    *,
    batch: int,
    resolution: int,
    limit_img_s: float | None,
) -> Shortlist | None:
    """From nets timed beside one reference; None where they are too few."""
    if len(timed) < FEWEST:
        return None
    predictor = LatencyPredictor.fit(
        [Observation(spec, 1 / m.ratio) for spec, m in timed], batch=batch, resolution=resolution
    )
    # The limit in times of the reference, whose own speed is the median of what it was beside each net.
    speeds = sorted(m.reference_img_s for _, m in timed)
    limit = None if limit_img_s is None else speeds[len(speeds) // 2] / limit_img_s
    kept = predictor.shortlist(list(untimed), limit_s=limit, keep=KEPT)
    ids = tuple(spec.arch_id for spec in kept)
    return Shortlist(predictor.cross_validated(), len(untimed), ids, limit_img_s)


def told(found: Shortlist) -> dict[str, Any]:
    """Plain JSON data."""
    return {"error": vars(found.error), "untimed": found.untimed, "arch_ids": list(found.arch_ids)}
