"""The table of vision transformers and hybrids is that of the rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.distillation.parallel import load_rows
from experiments.distillation.training_length import RESULTS

DOCS = Path(__file__).parents[2] / "docs"
TITLES = {
    "ViT, conv stem, 128 wide": "vit_conv_128",
    "ViT, patches of 16 px, 128 wide": "vit_128",
    "ViT, patches of 16 px, 256 wide": "vit_256",
    "windowed ViT, patches of 4 px, 64 wide": "windowed_vit_64",
    "eradio_nano": "eradio_nano",
    "trial 202": "winner_of_laptop_cosine",
    "best score of a search of `laptop`": "best_of_laptop",
}


@pytest.mark.parametrize("title", TITLES)
def test_scores_and_labels_of_a_network_are_those_of_the_rows(title: str) -> None:
    every = [row for row in load_rows(RESULTS) if row.get("steps") in (None, 2700)]
    rows = [row for row in every if row.get("recipe") == "search-cosine" and row["arch"] == TITLES[title]]
    (ratio,) = (row["ratio"][0] for row in every if "ratio" in row and row["arch"] == TITLES[title])
    assert sorted(row["seed"] for row in rows) == [0, 1]
    values = np.array([row["scores"][2:] + [row["metrics"][name] for name in ("knn", "probe", "miou")] for row in rows])
    mean = values.mean(axis=0)
    cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, np.abs(values - mean).max(axis=0), strict=True)]
    start = f"| {title} | {rows[0]['macs'] / 1e6:.1f} | {rows[0]['params'] / 1e6:.2f} | {ratio:.2f}x | "
    assert start + " | ".join(cells) + " |" in (DOCS / "results/index.md").read_text()
    if title not in ("trial 202", "best score of a search of `laptop`"):
        assert all(f"{value:.3f}" in (DOCS / "findings.md").read_text() for value in mean[:3])


def test_the_effect_of_shifts_is_that_of_the_rows() -> None:
    every, page = load_rows(RESULTS), (DOCS / "results/index.md").read_text()
    kinds = [(arch, recipe) for arch in ("eradio_nano", "winner_of_laptop_cosine") for recipe in ("train", "shifts")]
    columns = []
    for arch, recipe in kinds:
        rows = [row for row in every if (row.get("recipe"), row["arch"]) == (recipe, arch)]
        assert sorted(row["seed"] for row in rows) == [0, 1]
        found = [[row["scores"][-1], *(row["metrics"][name] for name in ("knn", "probe", "miou"))] for row in rows]
        mean = np.mean(found, axis=0)
        columns.append([f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, np.abs(found - mean).max(axis=0), strict=True)])
    titles = ("score", "CIFAR-10, kNN", "CIFAR-10, linear probe", "CamVid, mIoU")
    for title, cells in zip(titles, zip(*columns, strict=True), strict=True):
        assert f"| {title} | {' | '.join(cells)} |" in page
