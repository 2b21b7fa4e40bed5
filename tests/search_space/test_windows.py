"""Windows tile the maps of the images that a study has."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from backbones.entrypoints import image_px
from search_space import PRESETS, SPACES, ArchSpec, StageSpec, preset
from search_space.windows import eradio_window, fit_windows, fitting_window, is_cut_into_windows, padded_maps

SIZES = range(32, 1056, 32)
POOR = (17, 19, 23, 29, 31, 34)  # multiples of 32 px for which E-RADIO's rule has windows of 1 or 2 only


def enlargement(spec: ArchSpec, px: int) -> float:
    """Return the largest share of tokens that a stage of a spec has when its map is enlarged to whole windows."""
    shares = [1.0]
    for stride, stage in zip(spec.strides, spec.stages, strict=True):
        if is_cut_into_windows(stage.block):
            side, step = -(-px // stride), max(map(int.__mul__, stage.attention_ratios, stage.windows))
            shares.append((-(-side // step) * step / side) ** 2)
    return max(shares)


@pytest.mark.parametrize(
    ("size", "window"), [((224, 224), 7), ((64, 64), 2), ((384, 384), 12), ((1024, 1024), 16), ((448, 672), 7)]
)
def test_e_radio_s_rule(size: tuple[int, int], window: int) -> None:
    assert eradio_window(*size) == window


@pytest.mark.parametrize(
    ("base", "size", "window"),
    [
        (7, (384, 384), 12),
        (7, (224, 352), None),
        (7, (608, 608), None),
        (7, (192, 96), 3),
        (7, (32, 32), 1),
        (2, (96, 64), None),
    ],
)
def test_windows_of_half_the_size_are_small_where_images_have_room(
    base: int, size: tuple[int, int], window: int | None
) -> None:
    assert fitting_window(base, *size) == window


@pytest.mark.parametrize("name", SPACES)
def test_a_space_is_itself_at_its_own_size(name: str) -> None:
    assert SPACES[name].at(SPACES[name].image_px) is SPACES[name]
    assert SPACES["full"].at(448) is SPACES["full"]  # whose windows tile these maps, too


@pytest.mark.parametrize("name", SPACES)
def test_windows_tile_the_maps_of_every_size_for_which_there_are_windows(name: str) -> None:
    """At 256 px, the windows of 7 for 224 px would run on up to three times the tokens."""
    rng = random.Random(0)
    for px in SIZES:
        space = SPACES[name].at(px)
        assert space is SPACES[name].at(px)
        for spec in (space.sample(rng) for _ in range(20)):
            assert space.contains(spec)
            assert enlargement(spec, px) == 1 or px // 32 in POOR, (px, spec)


def test_choices_keep_their_part_of_the_map() -> None:
    stages = SPACES["full"].at(384).stages
    assert [(stage.windows, stage.mr_windows) for stage in stages[2:3]] == [((12, 24), (12,))]
    assert stages[2].vit_windows == SPACES["full"].stages[2].vit_windows  # they follow the map by themselves
    assert all(space.at(17 * 32) is space for space in SPACES.values())  # where E-RADIO's rule has windows of 1


def test_presets_keep_their_windows_at_their_own_size_and_tile_the_maps_of_others() -> None:
    for name, spec in PRESETS.items():
        assert fit_windows(spec, image_px(spec)) == spec, name
        assert all(enlargement(fit_windows(spec, px), px) == 1 for px in (128, 224, 256, 384)), name


def test_padded_maps_have_the_quotient_of_tokens() -> None:
    stage = StageSpec("window", 1, 16, expansion=2.0, heads=2, pre_conv="none", window=7, cpb_hidden=8)
    assert list(padded_maps(ArchSpec((stage,), stem="patch"), 32).values()) == [(14 / 8) ** 2]


def test_each_ratio_s_window_follows_and_networks_without_windows_stay() -> None:
    stages = list(preset("eradio_xt").stages)
    stages[2] = replace(stages[2], window=(7, 14))
    fitted = fit_windows(replace(preset("eradio_xt"), stages=tuple(stages)), 256)
    assert [stage.window for stage in fitted.stages] == [None, None, (8, 16), 8]
    for name in ("like_resnet18", "like_vitdet_medium"):
        assert fit_windows(preset(name), 256) == preset(name)
