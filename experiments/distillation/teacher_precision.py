"""Measure what computing teachers in bf16 changes of their features.

    python -m experiments.distillation.teacher_precision

The teachers see held-out images of the built-in data at their own sizes, the smaller ones enlarged from 64 px as in a
search. Each one computes them in fp32 and in bf16; maps are averaged to 4 x 4 cells, as targets are. A row of the
results is one head of a teacher: the cosine of both features, its lowest value of any cell, and the cosine after the
mean over all images is subtracted from both, as it is for targets. The vision transformer has random weights, which
are written to a file and loaded from it: each matrix has the variance of 1 / inputs, so that all layers matter.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from nas.cache.grid import to_grid
from nas.data import open_images
from nas.measure.environment import environment
from nas.study.config import SearchConfig
from nas.teachers import Teacher, load_teachers
from nas.teachers.base import run_teacher

RESULTS = Path(__file__).parents[1] / "results" / "teacher_precision.json"
VIT = "vit_small_patch14_reg4_dinov2.lvd142m@224"
BATCH = 32


def random_weights(name: str, folder: Path) -> Path:
    """Write random weights of a network of timm to a file, and return it."""
    torch.manual_seed(0)
    network = timm.create_model(name.partition("@")[0], img_size=int(name.partition("@")[2]))
    for key, parameter in network.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif key.endswith("gamma"):  # of LayerScale, which is 1e-5 at first
            torch.nn.init.ones_(parameter)
    path = folder / "vit.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in network.state_dict().items()}, path)
    return path


def features(teacher: Teacher, images: Tensor, precision: str) -> dict[str, Tensor]:
    """Return the features of uint8 images by head: (N, C) and (N, C, 4, 4)."""
    parts = [run_teacher(teacher, part, precision) for part in images.split(BATCH)]
    heads = {"spatial": torch.cat([to_grid(part.spatial, 4) for part in parts])}
    return heads | {"summary": torch.cat([part.summary for part in parts if part.summary is not None])}


def compare(teacher: Teacher, images: Tensor) -> list[dict[str, Any]]:
    """Return a row for each head of a teacher."""
    exact, rounded = (features(teacher, images, precision) for precision in ("fp32", "bf16"))
    rows = []
    for head, a in exact.items():
        cosine = F.cosine_similarity(a, rounded[head], dim=1)
        mean = a.mean([0, *range(2, a.ndim)], keepdim=True)
        centered = F.cosine_similarity(a - mean, rounded[head] - mean, dim=1).mean()
        values = {"cosine": cosine.mean(), "lowest": cosine.min(), "centered": centered}
        row = {"teacher": teacher.name, "head": head, "images": len(images)}
        rows.append(row | {name: round(float(value), 6) for name, value in values.items()})
    return rows


def main() -> None:
    """Compare all teachers, print a table and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64, help="held-out images (default: 64)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the rows (default: that of the results)")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        weights = {VIT.partition("@")[0]: random_weights(VIT, Path(folder))}
        for teacher in load_teachers(f"builtin,{VIT}", weights):
            px = max(teacher.source_px, SearchConfig().distill.img_size)
            held_out = open_images("builtin", "val", args.images, 0, px, Path(folder))
            pixels = np.stack([held_out.read(i).image for i in range(args.images)])
            rows += compare(teacher, torch.from_numpy(pixels).permute(0, 3, 1, 2))
            for row in rows[-2:]:
                print(*(f"{name} {value}" for name, value in row.items()), sep=", ", flush=True)
    machine = {name: environment("cpu").get(name) for name in ("cpu", "torch")}
    args.results.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
