"""Time training steps with cached teachers, with the student alone, and with live teachers.

    python -m experiments.benchmarks.cached_steps

One thread; the kinds of steps are interleaved in random order; medians. "Student alone" is the same student and heads
on one batch in memory. Live teachers are the built-in ones on batches of 256 images in memory at the teachers' size, so
that their time has no decoding.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from backbones import build
from nas.cache import open_targets
from nas.data import open_images
from nas.distill.batches import Batch
from nas.distill.trainer import Distiller
from nas.study.config import DistillConfig, SearchConfig
from nas.teachers import load_teachers
from search_space import preset

RESULTS = Path(__file__).parents[1] / "results" / "cached_steps.json"


class OneBatch:
    """Gives the same batch in every step, without reading."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def __getitem__(self, step: int) -> Batch:
        return self._batch

    def close(self) -> None:
        """Do nothing."""


class Live:
    """Batches whose targets the teachers compute now, standardized as the cache does it."""

    def __init__(self, cached: Any, targets: Any, sources: torch.Tensor, teachers: list[Any]) -> None:
        self._cached, self._targets, self._sources, self._teachers = cached, targets, sources, teachers

    def __getitem__(self, step: int) -> Batch:
        rows = torch.from_numpy(self._cached._schedule[step].rows % len(self._sources))
        source = self._sources[rows]
        student = torch.nn.functional.interpolate(source, (64, 64), mode="bilinear", antialias=True)
        targets = {}
        with torch.inference_mode():
            for teacher in self._teachers:
                summary, spatial = teacher(source if teacher.source_px > 64 else student)
                maps = torch.nn.functional.adaptive_avg_pool2d(spatial, self._targets.grid)
                statistics = self._targets.teachers[teacher.name]
                targets[f"{teacher.name}/summary"] = standardized(summary, statistics.summary)
                targets[f"{teacher.name}/spatial"] = standardized(maps.movedim(1, -1), statistics.spatial).movedim(
                    -1, 1
                )
        return Batch(self._cached[step].images, {key: value.clone() for key, value in targets.items()})

    def close(self) -> None:
        """Do nothing."""


def standardized(features: torch.Tensor, fitted: Any) -> torch.Tensor:
    """Return PHI-S targets of features (..., C)."""
    mean, forward = (torch.from_numpy(np.asarray(a, dtype=np.float32)) for a in (fitted.mean, fitted.forward))
    return (features - mean) @ forward.T


def main() -> None:
    """Time the students and write their rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", default="eradio_femto,eradio_pico,eradio_nano")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "backbone-nas")
    args = parser.parse_args()
    torch.set_num_threads(1)
    default = SearchConfig()
    targets = open_targets(
        "builtin", "builtin", root=args.cache, train_images=default.train_images, val_images=default.val_images,
        image_px=64, grid=4, seed=0,
    )  # fmt: skip
    images = open_images("builtin", "train", 256, 0, 128, args.cache)
    stacked = np.stack([images.read(i).image for i in range(len(images))])
    sources = torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255
    teachers = load_teachers("builtin")
    rows = [compare(arch, targets, sources, teachers, args.rounds) for arch in args.archs.split(",")]
    RESULTS.write_text(json.dumps(rows, indent=1))


def compare(arch: str, targets: Any, sources: torch.Tensor, teachers: list[Any], rounds: int) -> dict[str, Any]:
    """Return the medians in ms of each kind of step for one student."""
    distiller = Distiller(build(preset(arch)), targets, DistillConfig(precision="fp32"), seed=0)
    cached = distiller._loader
    one = cached[0]
    kinds = {"cached": cached, "alone": OneBatch(one), "live": Live(cached, targets, sources, teachers)}
    times: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        for kind in random.Random(number).sample(list(kinds), len(kinds)):
            if kind == "live" and number % 4:
                continue
            distiller._loader = kinds[kind]  # type: ignore[assignment]
            repeats = 1 if kind == "live" else 4
            distiller.train_step()  # discards the batches that were read ahead for another kind
            began = time.perf_counter()
            for _ in range(repeats):
                distiller.train_step()
            times[kind].append((time.perf_counter() - began) / repeats * 1e3)
    cached.close()
    ms = {kind: round(median(values[2:]), 2) for kind, values in times.items()}
    overhead = median([c / a for c, a in zip(times["cached"][2:], times["alone"][2:], strict=True)])
    row = {
        "arch": arch,
        "ms": ms,
        "cached over alone": round(overhead, 3),
        "live over cached": round(ms["live"] / ms["cached"], 1),
    }
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
