"""A space with other choices has exactly those, and refuses what is no space."""

from __future__ import annotations

import argparse
import random
import tomllib
from typing import Any

import pytest
import tomli_w

from nas.flags import GatherChoices
from nas.study.config import DistillConfig, SearchConfig
from search_space import SPACES, SpecError
from search_space.own_choices import choice_words, with_choices

LAPTOP = SPACES["laptop"]


def test_architectures_have_the_new_choices_and_the_other_ones_of_the_space() -> None:
    changes = {
        "stages": {"blocks": ["mbconv", "convnext"], "mlp_expansions": [3]},
        "stage1": {"widths": [8, 16]},
        "layouts": {"downsamplings": ["pool"]},
    }
    space, rng = with_choices(LAPTOP, changes, 64), random.Random(0)
    specs = [space.sample(rng) for _ in range(100)]
    stages = [stage for spec in specs for stage in spec.stages]
    assert {stage.block for stage in stages} == {"mbconv", "convnext"}
    assert {stage.expansion for stage in stages} == {3.0}
    assert {spec.downsampling for spec in specs if len(spec.stages) > 1} == {"pool"}
    assert {spec.stages[0].width for spec in specs if len(spec.stages) == len(LAPTOP.stages)} == {8, 16}
    assert {stage.width for stage in stages} - {8, 16} <= {width for s in LAPTOP.stages[1:] for width in s.widths}
    assert space.name == LAPTOP.name
    assert space.count() < LAPTOP.count()
    assert all(space.contains(spec) for spec in specs)


def test_one_stage_overrides_all_stages() -> None:
    space = with_choices(LAPTOP, {"stage2": {"depths": [3]}, "stages": {"depths": [1]}}, 64)
    assert [stage.depths for stage in space.stages] == [(1,), (3,), (1,), (1,)]


def test_none_is_a_word_where_a_field_has_it_and_no_value_of_pre_convs_is_lost() -> None:
    space = with_choices(LAPTOP, {"stages": {"squeezes": ["none", 0.25], "pre_convs": ["none"], "grid": 4}}, 64)
    assert {stage.squeezes for stage in space.stages} == {(None, 0.25)}
    assert {stage.pre_convs for stage in space.stages} == {("none",)}
    assert {stage.grid for stage in space.stages} == {4}


def test_without_changes_the_space_is_the_same_object() -> None:
    assert with_choices(LAPTOP, {}, 64) is LAPTOP


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage9": {}}, "choices: 'stage9' is not one of stages, stage1, stage2, stage3, stage4, layouts, layout1"),
        ({"stages": {"foo": [1]}}, "choices: stages: 'foo' is not one of blocks, depths"),
        ({"stages": {"blocks": ["foo"]}}, "choices: stage1.blocks: 'foo' is not one of c2f"),
        ({"stages": {"widths": ["a"]}}, r"choices: stages.widths: \['a'\]; need a list of whole numbers"),
        ({"stages": {"widths": [16, 16]}}, r"choices: stage1.width: \(16, 16\); need distinct choices"),
        ({"stages": {"grid": [2, 4]}}, "choices: stages.grid: .*need one whole number"),
        ({"stage3": {"heads": [7]}}, "choices: stage 3: heads 7 does not divide width"),
        (
            {"stages": {"pre_convs": ["none", "grouped"]}},
            "choices: stage 1: pre_convs: 'grouped' is not one of none, depthwise, dense",
        ),
        ({"stages": {"heads": [0]}}, "choices: integer modulo by zero"),
        ({"layouts": {"last_strides": [24]}}, "choices: layout 1: last_strides: 24 is not one of 4, 8, 16, 32$"),
        ({"layout1": {"stems": ["conv16"]}}, "choices: necks: stage2; need a stage at stride 16"),
    ],
)
def test_what_is_no_space_is_refused_with_its_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=f"^{message}"):
        with_choices(LAPTOP, changes, 64)


@pytest.mark.parametrize(
    ("field", "fits", "too_much", "message"),
    [
        ("key_widths", [16, 32], [16, 48], "stage 3: key_width: 48 is not a whole number from 1 to 32"),
        ("squeezes", ["none", 1 / 32], [0.25, 1 / 33], "stage 3: squeeze: .* leaves no channel of width 32"),
    ],
)
def test_one_impossible_combination_of_thousands_is_refused(
    field: str, fits: list[Any], too_much: list[Any], message: str
) -> None:
    stage = {"widths": [768, 512, 384, 320, 256, 192, 128, 32], "heads": [4], "group_widths": ["none"]}
    with_choices(SPACES["full"], {"stage3": {**stage, field: fits}}, 224)
    with pytest.raises(SpecError, match=f"^choices: {message}"):
        with_choices(SPACES["full"], {"stage3": {**stage, field: too_much}}, 224)


def test_windows_are_those_that_were_given_and_the_others_tile_the_maps() -> None:
    full = SPACES["full"].at(224)
    assert {stage.windows for stage in with_choices(full, {"stages": {"windows": [5]}}, 224).stages} == {(5,)}
    early = with_choices(LAPTOP, {"stages": {"blocks": ["window", "mr_window"]}}, 64)
    assert [(stage.windows, stage.mr_windows) for stage in early.stages[:2]] == [((2,), (2,))] * 2
    assert [stage.windows for stage in early.stages[2:]] == [stage.windows for stage in LAPTOP.stages[2:]]
    config = SearchConfig(space="full", choices={"stages": {"windows": (5,)}}, distill=DistillConfig(img_size=224))
    assert {stage.windows for stage in config.search_space.stages} == {(5,)}


@pytest.mark.parametrize(("px", "window"), [(256, 8), (448, 14), (544, 7)])
def test_windows_of_new_blocks_are_no_small_ones(px: int, window: int) -> None:
    """E-RADIO's rule has windows of 1 token at 544, 608 and 736 px, where a search keeps those of its space."""
    changes = {"stage1": {"blocks": ["window", "mr_window"], "heads": [4]}}
    stage = with_choices(SPACES["full"].at(px), changes, px).stages[0]
    assert (stage.windows, stage.mr_windows) == ((window,), (window,))


def test_choices_are_what_a_settings_file_can_hold() -> None:
    config = SearchConfig(choices={"stages": {"squeezes": (None, 0.25), "grid": 4}})
    assert config.choices == {"stages": {"squeezes": ["none", 0.25], "grid": 4}}
    assert SearchConfig.from_dict(tomllib.loads(tomli_w.dumps({"choices": config.choices})) | plain(config)) == config


def test_choices_are_written_as_the_command_line_reads_them() -> None:
    changes = {"stages": {"squeezes": (None, 0.25), "grid": 4}, "stage1": {"blocks": ["mbconv"]}}
    words = choice_words(changes)
    assert words == ["stages.squeezes=none,0.25", "stages.grid=4", "stage1.blocks=mbconv"]
    parser = argparse.ArgumentParser()
    parser.add_argument("--choices", action=GatherChoices)
    read = parser.parse_args([word for each in words for word in ("--choices", each)]).choices
    assert with_choices(LAPTOP, read, 64) == with_choices(LAPTOP, changes, 64)
    assert parser.parse_args([]).choices is None


def plain(config: SearchConfig) -> dict[str, Any]:
    return {name: value for name, value in config.to_dict().items() if name != "choices"}
