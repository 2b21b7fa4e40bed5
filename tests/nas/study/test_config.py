"""Invalid settings are refused by name; valid settings survive JSON."""

import json
from dataclasses import replace

import pytest

from nas import samplers
from nas.cache.codecs import CODECS
from nas.distill import balance, losses
from nas.samplers.cost_model import COSTS
from nas.study import config
from nas.study.config import DistillConfig, Group, SearchConfig
from nas.study.limits import LimitError
from nas.validation import ConfigError
from search_space import SPACES, preset


def test_names_that_help_lists_are_those_of_the_tables() -> None:
    assert list(config.SAMPLERS) == list(samplers.SAMPLERS)
    assert list(config.KNOWN_COSTS) == list(COSTS)
    assert list(config.TARGET_DTYPES) == list(CODECS)
    assert {*config.SUMMARY_LOSSES, *config.SPATIAL_LOSSES} == set(losses.LOSSES)
    assert list(config.STANDARDIZATIONS) == list(losses.TRANSFORMS)
    assert list(config.BALANCES) == list(balance.BALANCES)


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({"budget": 0}, "--budget: 0"),
        ({"reduction_factor": 1}, "--reduction-factor: 1"),
        ({"front_gain": float("nan")}, "--front-gain: nan"),
        ({"measure_seconds": float("inf")}, "--measure-seconds: inf"),
        ({"budget": True}, "--budget: True"),
        ({"data": ""}, "--data: ''"),
        ({"baselines": "eradio_pico"}, "--baselines: 'eradio_pico'"),
        ({"train_images": 4}, "at least a batch"),
        ({"limits": {"max_params": 0}}, r"max.params"),
        ({"limits": {"max_flops": 1}}, r"max.params"),
        ({"distill": {"learning_rat": 1e-3}}, r"learning_rat: 0\.001: Unexpected keyword"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, object], pattern: str) -> None:
    with pytest.raises((ConfigError, LimitError), match=pattern):
        SearchConfig(**settings)  # type: ignore[arg-type]


def test_teachers_of_a_study_from_before_the_choice_compute_in_fp32() -> None:
    older = {name: value for name, value in SearchConfig().to_dict().items() if name != "teacher_precision"}
    config = SearchConfig.from_dict(older)
    assert config.teacher_precision == "fp32"
    assert config.differences(replace(config, teacher_precision="bf16")) == ["teacher_precision: fp32 -> bf16"]


def test_a_retired_setting_is_ignored_at_the_value_that_changes_nothing() -> None:
    older = SearchConfig().to_dict() | {"last_rung_chance": 0.0}
    assert SearchConfig.from_dict(older) == SearchConfig()
    with pytest.raises(ConfigError, match="last_rung_chance"):
        SearchConfig.from_dict(older | {"last_rung_chance": 0.5})


def test_json_round_trip_and_differences() -> None:
    group = Group(("a",), 8, (32, 64), 0.5)
    recipe = DistillConfig(rung_steps=(5, 15), groups=(group,), weights={"a": 2.0}, balance="drop")
    config = SearchConfig(budget=7, limits={"max_params": 1e6}, distill=recipe)
    again = SearchConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.differences(SearchConfig.from_dict({**config.to_dict(), "seed": 3})) == ["seed: 0 -> 3"]


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({"balance": "magic"}, "balance: 'magic': must be 'fixed', 'uncertainty'"),
        ({"accumulate": 5}, "batch-size: 32: must be a multiple of accumulate"),
        ({"spatial_loss": "cosine"}, "spatial_loss: 'cosine': must be 'mse' or 'hybrid'"),
        ({"learning_rate": True}, "learning_rate: True: must be a valid number"),
        ({"learning_rate": float("inf")}, "learning_rate: inf: must be"),
        ({"rung_steps": ["a"]}, "--rung-steps: .*'a'.*: must be"),
        ({"rung_steps": ()}, "--rung-steps: "),
        ({"rung_steps": (30, 10)}, "--rung-steps: "),
        ({"rung_steps": (10, 10)}, "--rung-steps: "),
        ({"batch_size": 36, "ranks": 4, "accumulate": 2}, r"ranks \(8\)"),
        ({"batch_size": 8, "ranks": 4, "accumulate": 2}, "two or more images"),
        ({"ranks": 4, "groups": (Group(("a",), 6, (64,)),)}, "groups: batch_size: 6"),
        ({"groups": [{"teachers": "lite0", "batch_size": 8, "img_size": [64]}]}, "groups teachers: 'lite0'"),
        ({"groups": [{"teachers": ["a"], "batch_size": 8, "img_size": []}]}, "groups img_size: .*at least 1 item"),
        ({"weights": {"lite0": 0}}, "weights lite0: 0: must be"),
        ({"groups": [{"teachers": ["a"], "batch_size": 8, "img_size": [96]}]}, "groups: img_size: 96: must be at most"),
    ],
)
def test_impossible_recipes_are_named(settings: dict[str, object], pattern: str) -> None:
    with pytest.raises(ConfigError, match=pattern):
        DistillConfig(**settings)  # type: ignore[arg-type]


def test_recipes_name_the_teachers_of_their_study() -> None:
    group = {"teachers": ["a"], "batch_size": 8, "img_size": [64]}
    DistillConfig(weights={"a": 2, "b/spatial": 1}).check_teachers(["a", "b"])
    with pytest.raises(ConfigError, match="weights: no teacher 'c'"):
        DistillConfig(weights={"c": 2}).check_teachers(["a", "b"])
    with pytest.raises(ConfigError, match="groups: teacher 'b' is in none"):
        DistillConfig(groups=(group,)).check_teachers(["a", "b"])  # type: ignore[arg-type]


def test_space_and_presets_have_windows_for_the_study_s_images() -> None:
    """Reference, baselines and candidates would else run on three times the tokens at 256 px."""
    study = SearchConfig(space="full", distill=DistillConfig(img_size=256))
    assert study.search_space.stages[2].windows == (8, 16)
    assert [stage.window for stage in study.spec("eradio_xt").stages] == [None, None, 8, 8]
    assert study.arch("eradio_xt") == study.spec("eradio_xt").to_dict()
    own = replace(study, specs={"mine": preset("eradio_xt").to_dict()})
    assert own.spec("mine") == preset("eradio_xt")
    assert SearchConfig().search_space is SPACES["laptop"]
