"""Architectures in a line."""

from __future__ import annotations

import random

import pytest

from search_space import SPACES, ArchSpec, StageSpec
from search_space.outline import outline


def test_an_outline_by_hand() -> None:
    stages = (
        StageSpec("c2f", 1, 16, expansion=0.5),
        StageSpec("mbconv", 2, 48, expansion=2, kernel=5),
        StageSpec("mr_window", 2, 128, expansion=2, heads=4, pre_conv="none", window=(2, 4), cpb_hidden=8,
                  subsampling="conv"),
    )  # fmt: skip
    text = outline(ArchSpec(stages, stem="patch", neck="stage1", neck_dim=96))
    assert (
        text
        == "patch stem | c2f x1 16 | mbconv x2 48 (kernel 5) | mr_window x2 128 (4 heads, window 2/4) | neck stage1 96"
    )


def test_windows_and_registers_of_a_vit() -> None:
    vit = StageSpec("vit", 12, 384, expansion=4, heads=6, grid=14, window=8, global_every=3, registers=4)
    text = outline(ArchSpec((vit,), stem="patch16", summary="token"))
    details = "6 heads, window 8, every 3rd layer global, 4 registers"
    assert text == f"patch16 stem | vit x12 384 ({details}) | summary token"


@pytest.mark.parametrize("space", SPACES)
def test_every_architecture_has_a_line(space: str) -> None:
    rng = random.Random(0)
    for _ in range(10):
        spec = SPACES[space].sample(rng)
        text = outline(spec)
        assert "\n" not in text
        assert all(f"{s.block} x{s.depth} {s.width}" in text for s in spec.stages)
