"""Measure how well features that a student exports agree with a teacher's in direction, by the loss of the summaries.

Command:   python -m experiments.distillation.exported_features [--losses mse cosine angle]
Hardware:  two cores, about a minute and a half a loss
Expected:  see experiments/LOG.md, 2026-11-28, morning

eradio_pico trains for 270 steps as in a search, one seed. For each teacher and head, the mean cosine over held-out
images of the student's features to the teacher's is printed, both as they are after decompression.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from backbones import build
from nas.cache import open_targets
from nas.cache.targets import Targets
from nas.cli import cache_root
from nas.distill.heads import Student, normalize
from nas.distill.losses import array_of
from nas.distill.trainer import Distiller
from nas.study.config import SUMMARY_LOSSES, SearchConfig
from search_space import preset

STEPS, BATCH = 270, 50


def cosines(student: Student, targets: Targets) -> dict[str, float]:
    """Return the mean cosine of each "teacher/head"."""
    parts: dict[str, list[float]] = {}
    for start in range(0, len(targets.val), BATCH):
        rows = slice(start, start + BATCH)
        with torch.inference_mode():
            answers = student.predict_targets(normalize(torch.from_numpy(np.array(targets.val.images[rows]))))
        for teacher, heads in answers.items():
            for head, values in heads.items():
                standardizer = getattr(targets.teachers[teacher], head)
                stored = array_of(targets.val, f"{teacher}/{head}")[rows]
                u, v = (standardizer.invert(np.moveaxis(each, 1, -1)) for each in (values.numpy(), np.array(stored)))
                lengths = np.linalg.norm(u, axis=-1) * np.linalg.norm(v, axis=-1)
                parts.setdefault(f"{teacher}/{head}", []).extend(((u * v).sum(-1) / lengths).ravel())
    return {key: float(np.mean(values)) for key, values in parts.items()}


def main(words: Sequence[str] | None = None) -> None:
    """Train with each loss and print the cosines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", choices=SUMMARY_LOSSES, default=SUMMARY_LOSSES)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    config = SearchConfig()
    targets = open_targets(
        config.data, config.teachers, root=cache_root(), train_images=config.train_images,
        val_images=config.val_images, image_px=config.distill.img_size, grid=config.grid, seed=0,
    )  # fmt: skip
    for loss in options.losses:
        recipe = replace(config.distill, summary_loss=loss, precision="fp32", rung_steps=(STEPS,))
        torch.manual_seed(0)
        distiller = Distiller(build(preset("eradio_pico")), targets, recipe, seed=0)
        distiller.train_until(STEPS)
        student = distiller.averaged.eval()
        distiller.close()
        print(loss, {key: round(value, 4) for key, value in cosines(student, targets).items()}, flush=True)


if __name__ == "__main__":
    main()
